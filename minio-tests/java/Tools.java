import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.*;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.util.*;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.common.utils.Exit;

/**
 * Runs Kafka's own command-line tools one after another in one JVM, each by its main method as its script does.
 *
 *   Tools < commands
 *
 * A command is a line of JSON: {"class": .., "arguments": [..], "input": ..}. The answer is one as well: {"code": ..,
 * "out": .., "err": ..}, the exit code and what the tool wrote until then. Code -1: it did not end, or threw something.
 */
public class Tools {
    static final long TOOL_MAX_MS = 120_000;

    /** A tool's way out: its exit code. */
    static class Exited extends Error {
        final int code;

        Exited(int code) {
            super(null, null, false, false);
            this.code = code;
        }
    }

    static final AtomicReference<Integer> exited = new AtomicReference<>();
    static final List<Runnable> hooks = new ArrayList<>();

    static void exit(int code) {
        exited.compareAndSet(null, code);
        throw new Exited(code);
    }

    public static void main(String[] args) throws Exception {
        PrintStream answers = System.out;
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        ByteArrayOutputStream out = new ByteArrayOutputStream(), err = new ByteArrayOutputStream();
        System.setOut(new PrintStream(out, true));
        System.setErr(new PrintStream(err, true));
        Exit.setExitProcedure((code, message) -> exit(code));
        Exit.setHaltProcedure((code, message) -> exit(code));
        Exit.setShutdownHookAdder((name, hook) -> hooks.add(hook));
        ObjectMapper json = new ObjectMapper();
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            JsonNode command = json.readTree(line);
            int code = run(command);
            Map<String, Object> answer = Map.of("code", code, "out", out.toString(), "err", err.toString());
            out.reset();
            err.reset();
            answers.println(json.writeValueAsString(answer));
            answers.flush();
        }
        Runtime.getRuntime().halt(0);
    }

    static int run(JsonNode command) throws Exception {
        exited.set(null);
        hooks.clear();
        System.setIn(new ByteArrayInputStream(command.path("input").asText("").getBytes(StandardCharsets.UTF_8)));
        List<String> arguments = new ArrayList<>();
        command.path("arguments").forEach(argument -> arguments.add(argument.asText()));
        Method main = Class.forName(command.path("class").asText()).getMethod("main", String[].class);
        AtomicReference<Throwable> thrown = new AtomicReference<>();
        Thread tool = new Thread(() -> {
            try {
                main.invoke(null, (Object) arguments.toArray(new String[0]));
            } catch (InvocationTargetException e) {
                thrown.set(e.getCause());
            } catch (Throwable e) {
                thrown.set(e);
            }
            // As at the end of a JVM.
            hooks.forEach(Runnable::run);
        });
        tool.setDaemon(true);
        tool.start();
        tool.join(TOOL_MAX_MS);
        if (tool.isAlive()) {
            System.err.println("the tool does not end");
            return -1;
        }
        if (exited.get() != null) return exited.get();
        if (thrown.get() == null) return 0;
        thrown.get().printStackTrace();
        return -1;
    }
}
