//! Writes the seeds into a folder, one folder below it for each target: `write-seeds FOLDER`.

use std::path::PathBuf;
use std::process::ExitCode;

use purser_fuzz::{CHECKS, seeds};

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("expected one argument: the folder to write to");
        return ExitCode::from(2);
    };
    match write(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &std::path::Path) -> std::io::Result<()> {
    for (name, _) in CHECKS {
        std::fs::create_dir_all(folder.join(name))?;
    }
    for (number, (name, input)) in seeds::all().iter().enumerate() {
        std::fs::write(folder.join(name).join(format!("seed-{number}")), input)?;
    }
    Ok(())
}
