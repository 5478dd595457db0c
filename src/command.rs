//! The command `oyez`: what the library knows about addresses, at the shell.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use lexopt::Arg;
use oyez::check;

const USAGE: &str = "\
usage: oyez check [--json] [--] ADDRESS...

Tries each address without taking it: can it be had, and if not, who has it and what to do. Then what this host grants.

An ADDRESS is what oyez_listen() takes: 9000, 127.0.0.1:9000, [::1]:9000, localhost:http, udp::5353,
unix:/run/app.sock, unix:@name, fd:3, systemd:, each with options such as ?backlog=64; also several, separated by
commas, of which one with a `-` in front is optional (as the first it needs the `--`).

  --json     the same for a program
  --help     this text
  --version  the version

Each is tried by itself: two that are the same can both be had.

Exit status: 0 all could be had, 1 not all, 2 the command was not understood or its output could not be written.
";

/// What is to be done.
enum Command {
    Check { addresses: Vec<OsString>, json: bool },
    Say(&'static str),
}

fn main() -> ExitCode {
    match parse() {
        Ok(Command::Say(text)) => say(text, ExitCode::SUCCESS),
        Ok(Command::Check { addresses, json }) => check(&addresses, json),
        Err(error) => {
            complain(format_args!("{error}\n\n{USAGE}"));
            ExitCode::from(2)
        }
    }
}

/// Writes to standard output; a reader who has gone is no failure of the check.
fn say(text: &str, code: ExitCode) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            complain(format_args!("standard output: {error}\n"));
            ExitCode::from(2)
        }
        _ => code,
    }
}

/// Writes to standard error. Where nobody listens there is nobody to tell.
fn complain(text: std::fmt::Arguments<'_>) {
    let _ = write!(std::io::stderr(), "oyez: {text}");
}

fn parse() -> Result<Command, lexopt::Error> {
    let mut parser = lexopt::Parser::from_env();
    let (mut command, mut addresses, mut json) = (None, Vec::new(), false);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("help") | Arg::Short('h') => return Ok(Command::Say(USAGE)),
            Arg::Long("version") | Arg::Short('V') => {
                return Ok(Command::Say(concat!("oyez ", env!("CARGO_PKG_VERSION"), "\n")));
            }
            Arg::Long("json") => json = true,
            Arg::Value(word) if command.is_none() => command = Some(word),
            Arg::Value(address) => addresses.push(address),
            other => return Err(other.unexpected()),
        }
    }
    match command {
        Some(word) if word == "check" && !addresses.is_empty() => Ok(Command::Check { addresses, json }),
        Some(word) if word == "check" => Err("which address?".into()),
        Some(word) => Err(format!("there is no command {word:?}").into()),
        None => Err("what is to be done?".into()),
    }
}

fn check(addresses: &[OsString], json: bool) -> ExitCode {
    let report = check::check_each(addresses.iter().map(|address| address.as_bytes()));
    let code = if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if !json {
        return say(&report.to_string(), code);
    }
    match serde_json::to_string_pretty(&report) {
        Ok(text) => say(&(text + "\n"), code),
        Err(error) => {
            complain(format_args!("{error}\n"));
            ExitCode::from(2)
        }
    }
}
