//! The rules of the tree, held by machine. Each exception carries its reason, and a list may only shrink: an
//! entry that is no longer needed fails the test too.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 500;
const FILE_LINES_CAP: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;
const LINE_CHARS_MAX: usize = 110;
const INLINE_TEST_LINES_MAX: usize = 200;
const HEADER_REQUIRED_ABOVE_LINES: usize = 80;
const TRAIT_METHODS_MAX: usize = 9;
const CORE_ASSERTIONS_PER_1000_LINES: usize = 25;

/// Files over `FILE_LINES_MAX` (never over the cap), each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Functions over `FUNCTION_LINES_MAX`: `path::name`, with the reason.
const LONG_FUNCTIONS: &[(&str, &str)] = &[];

/// The only files that may contain `unsafe`.
const UNSAFE_ALLOWED: &[(&str, &str)] =
    &[("log/src/map.rs", "memmap2: a sealed segment's file is never written or cut while it is mapped")];

/// Which workspace crates each crate may depend on: the arrows of ARCHITECTURE.md.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("wire", &["model"]),
    ("log", &["model", "wire"]),
    ("tiering", &["model", "wire", "log"]),
    ("compaction", &["model", "wire", "log", "tiering"]),
    ("coordinator", &["model", "log", "tiering"]),
    ("groups", &["model"]),
    ("broker", &["model", "wire", "log", "tiering", "compaction", "coordinator", "groups"]),
    ("sim", &["model", "wire", "log", "tiering", "coordinator", "groups", "broker"]),
];

/// A crate's name in code, and the path prefixes that may name it.
const NAMED_ONLY_IN: &[(&str, &[&str])] = &[
    ("object_store::", &["tiering/src/store"]),
    ("openraft::", &["coordinator/src/raft", "broker/src/raft"]),
    ("kafka_protocol::", &["wire/src"]),
    // Takes guards away: for the simulation, and never in what serves.
    ("set_guards(", &["broker/src/replica", "sim/src"]),
];

/// What a pure core must not mention.
const BANNED_IN_CORE: &[&str] = &[
    "async fn",
    "async move",
    "tokio::",
    "std::fs",
    "std::net",
    "Instant::now",
    "SystemTime",
    "rand::",
    "tracing::",
    "HashMap",
    "HashSet",
];

struct Source {
    path: String,
    text: String,
    /// Index of the first line of the inline test module, or the number of lines.
    code_lines: usize,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_path_buf()
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> =
        fs::read_dir(dir).expect("readable").map(|e| e.expect("entry").path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                collect(&path, found);
            }
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let root = root();
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    assert!(paths.len() > 10, "the tree was not found from {root:?}");
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("UTF-8 source");
            let lines: Vec<&str> = text.lines().collect();
            let code_lines = lines
                .windows(2)
                .position(|w| w[0].starts_with("#[cfg(test)]") && w[1].ends_with('{'))
                .unwrap_or(lines.len());
            let path = path.strip_prefix(&root).expect("below root").to_string_lossy().into_owned();
            Source { path, text, code_lines }
        })
        .collect()
}

impl Source {
    fn is_test(&self) -> bool {
        ["/tests/", "/tests.rs", "/benches/", "/examples/", "_tests.rs", "test_support"]
            .iter()
            .any(|t| self.path.contains(t))
            || self.path.starts_with("minio-tests/")
            || self.path.starts_with("bench/")
    }

    fn is_core(&self) -> bool {
        self.path.contains("/src/core/") || self.path.ends_with("/src/core.rs")
    }

    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().take(self.code_lines).enumerate().map(|(i, l)| (i + 1, l))
    }
}

/// Strips the comment of a line; good enough for the checks below, which look for identifiers.
fn without_comment(line: &str) -> &str {
    line.find("//").map_or(line, |at| &line[..at])
}

fn report(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn files_and_lines_stay_short() {
    let mut problems = Vec::new();
    let mut excused: BTreeMap<&str, bool> = LONG_FILES.iter().map(|(p, _)| (*p, false)).collect();
    for source in sources() {
        let lines: Vec<&str> = source.text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            if line.chars().count() > LINE_CHARS_MAX && !line.contains("http") && !line.contains('"') {
                problems.push(format!("{}:{}: line over {LINE_CHARS_MAX} characters", source.path, i + 1));
            }
        }
        if source.is_test() {
            continue;
        }
        if source.code_lines > FILE_LINES_CAP {
            problems.push(format!("{}: {} lines, cap {FILE_LINES_CAP}", source.path, source.code_lines));
        } else if source.code_lines > FILE_LINES_MAX {
            match excused.get_mut(source.path.as_str()) {
                Some(used) => *used = true,
                None => problems.push(format!("{}: {} lines of code", source.path, source.code_lines)),
            }
        }
        let inline_tests = lines.len() - source.code_lines;
        if inline_tests > INLINE_TEST_LINES_MAX {
            problems.push(format!("{}: {inline_tests} lines of inline tests; move them", source.path));
        }
        if lines.len() > HEADER_REQUIRED_ABOVE_LINES && !source.text.starts_with("//!") {
            problems.push(format!("{}: opens without //!", source.path));
        }
    }
    problems.extend(unused(excused, "LONG_FILES"));
    report(problems);
}

fn unused(excused: BTreeMap<&str, bool>, list: &str) -> Vec<String> {
    excused
        .iter()
        .filter(|(_, used)| !**used)
        .map(|(p, _)| format!("{list}: {p} is no longer needed"))
        .collect()
}

/// Length of each function, from its `fn` line to the closing brace at the same indentation (rustfmt's
/// layout).
fn functions(source: &Source) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    let lines: Vec<&str> = source.code().map(|(_, l)| l).collect();
    for (i, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let is_fn = trimmed.starts_with("fn ")
            || (trimmed.starts_with("pub") || trimmed.starts_with("async") || trimmed.starts_with("const"))
                && trimmed.contains("fn ")
                && trimmed.contains('(');
        if !is_fn || trimmed.ends_with(';') {
            continue;
        }
        let indent = line.len() - trimmed.len();
        let close = format!("{}}}", " ".repeat(indent));
        let end = lines[i..].iter().position(|l| *l == close).map_or(0, |n| n + 1);
        let name: String = trimmed
            .split("fn ")
            .nth(1)
            .unwrap_or_default()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        found.push((name, i + 1, end));
    }
    found
}

#[test]
fn functions_stay_short() {
    let mut problems = Vec::new();
    let mut excused: BTreeMap<&str, bool> = LONG_FUNCTIONS.iter().map(|(p, _)| (*p, false)).collect();
    for source in sources().iter().filter(|s| !s.is_test()) {
        for (name, line, length) in functions(source) {
            if length > FUNCTION_LINES_MAX {
                let key = format!("{}::{name}", source.path);
                match excused.get_mut(key.as_str()) {
                    Some(used) => *used = true,
                    None => problems.push(format!("{}:{line}: fn {name} has {length} lines", source.path)),
                }
            }
        }
    }
    problems.extend(unused(excused, "LONG_FUNCTIONS"));
    report(problems);
}

#[test]
fn forbidden_words_stay_out() {
    let words = [".unwrap()", "todo!(", "unimplemented!(", "dbg!(", "unbounded_channel", "unbounded()"];
    let marks = [concat!("FIX", "ME"), concat!("XX", "X:")];
    let mut problems = Vec::new();
    let mut excused: BTreeMap<&str, bool> = UNSAFE_ALLOWED.iter().map(|(p, _)| (*p, false)).collect();
    for source in sources().iter().filter(|s| !s.is_test()) {
        for (n, line) in source.code() {
            let code = without_comment(line);
            for word in words {
                if code.contains(word) {
                    problems.push(format!("{}:{n}: {word}", source.path));
                }
            }
            for mark in marks {
                if line.contains(mark) {
                    problems.push(format!("{}:{n}: {mark}", source.path));
                }
            }
            let is_unsafe =
                code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl");
            if is_unsafe {
                match excused.get_mut(source.path.as_str()) {
                    Some(used) => *used = true,
                    None => problems.push(format!("{}:{n}: unsafe outside the allow-list", source.path)),
                }
            }
        }
    }
    problems.extend(unused(excused, "UNSAFE_ALLOWED"));
    report(problems);
}

#[test]
fn cores_are_pure_and_assert() {
    let mut problems = Vec::new();
    let mut per_crate: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for source in sources().iter().filter(|s| s.is_core() && !s.is_test()) {
        let (lines, assertions) =
            per_crate.entry(source.path.split('/').next().unwrap_or_default().to_string()).or_default();
        for (n, line) in source.code() {
            let code = without_comment(line);
            for word in BANNED_IN_CORE {
                if code.contains(word) {
                    problems.push(format!("{}:{n}: {word} in a pure core", source.path));
                }
            }
            *lines += 1;
            *assertions += usize::from(code.contains("assert"));
        }
    }
    for (name, (lines, assertions)) in per_crate {
        if assertions * 1000 < lines * CORE_ASSERTIONS_PER_1000_LINES {
            problems.push(format!("{name}/src/core: {assertions} assertions in {lines} lines"));
        }
    }
    report(problems);
}

#[test]
fn ports_stay_small() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|s| !s.is_test()) {
        let lines: Vec<&str> = source.code().map(|(_, l)| l).collect();
        for (i, line) in lines.iter().enumerate() {
            if !(line.starts_with("pub trait ") || line.starts_with("trait ")) {
                continue;
            }
            let methods = lines[i + 1..]
                .iter()
                .take_while(|l| **l != "}")
                .filter(|l| l.starts_with("    fn ") || l.starts_with("    async fn "))
                .count();
            if methods > TRAIT_METHODS_MAX {
                problems.push(format!("{}:{}: a port with {methods} methods", source.path, i + 1));
            }
        }
    }
    report(problems);
}

#[test]
fn names_of_libraries_stay_in_their_rooms() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|s| !s.is_test()) {
        for (name, rooms) in NAMED_ONLY_IN {
            if rooms.iter().any(|room| source.path.starts_with(room)) {
                continue;
            }
            for (n, line) in source.code() {
                let code = without_comment(line);
                let foreign = code.find(name).is_some_and(|at| !code[..at].ends_with(['_', ':']));
                if foreign {
                    problems.push(format!("{}:{n}: {name} outside {rooms:?}", source.path));
                }
            }
        }
    }
    report(problems);
}

#[test]
fn arrows_point_one_way() {
    let mut problems = Vec::new();
    for (name, allowed) in ARROWS {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).expect("the crate exists");
        let dependencies = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        for line in dependencies.lines() {
            if let Some(dependency) = line.strip_prefix("highwater-").and_then(|l| l.split(['.', ' ']).next())
                && !allowed.contains(&dependency)
            {
                problems.push(format!("{name} depends on {dependency}"));
            }
        }
    }
    report(problems);
}

#[test]
fn every_dependency_carries_its_reason() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("workspace manifest");
    let section = manifest.split("[workspace.dependencies]").nth(1).expect("section");
    let section = section.split("\n[").next().unwrap_or_default();
    let problems: Vec<String> = section
        .lines()
        .filter(|l| !l.trim().is_empty() && !l.starts_with('#') && !l.starts_with("highwater-"))
        .filter(|l| !l.contains(" # "))
        .map(|l| format!("Cargo.toml: no reason: {l}"))
        .collect();
    report(problems);
}

#[test]
fn limits_have_names() {
    let mut problems = Vec::new();
    let files = ["limits.rs", "limits/cluster.rs", "limits/groups.rs", "limits/transactions.rs"];
    for file in files.map(|file| format!("model/src/{file}")) {
        let limits = fs::read_to_string(root().join(&file)).expect("limits");
        let mut documented = false;
        for (n, line) in limits.lines().enumerate() {
            if line.starts_with("pub const ") && !documented {
                problems.push(format!("{file}:{}: a limit without its doc", n + 1));
            }
            // A constant may share the doc of the one right above it.
            documented = line.starts_with("///") || line.starts_with("#[") || line.starts_with("pub const ");
        }
    }
    report(problems);
}
