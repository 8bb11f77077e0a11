//! `highwater demo`: the main job on real data, by the script that `make demo` runs, which this binary
//! carries along.

use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use super::CommandError;

const SCRIPT: &str = include_str!("../../../demo/demo.py");

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Directory to work in, kept afterwards; by default a new one among the temporary files.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Python 3 interpreter.
    #[arg(long, default_value = "python3", value_name = "PROGRAM")]
    python: String,
    /// More arguments for the script.
    #[arg(last = true)]
    rest: Vec<String>,
}

pub fn run(args: DemoArgs) -> Result<(), CommandError> {
    let own = std::env::current_exe()
        .map_err(|e| CommandError::Failed(format!("cannot find this program's own file: {e}")))?;
    let dir = match args.dir {
        Some(dir) => dir,
        None => std::env::temp_dir().join(format!("highwater-demo-{}", std::process::id())),
    };
    let cannot = |what: &str, e: std::io::Error| {
        CommandError::Failed(format!("cannot {what} {}: {e}; give another --dir", dir.display()))
    };
    std::fs::create_dir_all(&dir).map_err(|e| cannot("create", e))?;
    let script = dir.join("demo.py");
    std::fs::write(&script, SCRIPT).map_err(|e| cannot("write to", e))?;
    let status = Command::new(&args.python)
        .arg(&script)
        .arg("--highwater")
        .arg(&own)
        .arg("--work-dir")
        .arg(&dir)
        .args(&args.rest)
        .status()
        .map_err(|e| CommandError::Failed(format!("cannot run {}: {e}; give --python", args.python)))?;
    match status.success() {
        true => Ok(()),
        false => Err(CommandError::Failed(format!(
            "the demo failed ({status}); its files are in {}",
            dir.display()
        ))),
    }
}
