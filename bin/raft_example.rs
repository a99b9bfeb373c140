//! One node of the cluster: `raft_example N`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use log::{error, info};
use raftkv::config::{LogArgs, ServerArgs};
use raftkv::disk::explain_signals;
use raftkv::logging::{self, LogHandle, LogOptions, Mode};
use raftkv::server::{self, Server, ServerOptions, StopHandle};
use rustix::fs::Mode as FileMode;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

fn main() -> ExitCode {
    let args = ServerArgs::parse_from(std::env::args_os()).unwrap_or_else(|exit| exit.exit());
    let levels_file = args.log.levels_file.clone();
    // Data and logs are for the owner alone: files get mode 0600, directories 0700, also those
    // that log rotation makes later.
    rustix::process::umask(FileMode::from_raw_mode(0o077));
    let log = match start_logging(&args.log) {
        Ok(log) => log,
        Err(reason) => return fail(&reason),
    };
    logging::abort_on_panic();
    match serve(args, log, levels_file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => fail(&reason),
    }
}

fn fail(reason: &str) -> ExitCode {
    eprintln!("raft_example: {reason}");
    ExitCode::FAILURE
}

fn start_logging(args: &LogArgs) -> Result<LogHandle, String> {
    let options = LogOptions {
        levels: args
            .levels
            .parse()
            .map_err(|e| format!("--log-level: {e}"))?,
        pattern: match &args.pattern {
            Some(pattern) => pattern.parse().map_err(|e| format!("--log-pattern: {e}"))?,
            None => Default::default(),
        },
        file: args.file.clone(),
        console: args.console,
        rotation: match &args.rotate {
            Some(rules) => Some(rules.parse().map_err(|e| format!("--log-rotate: {e}"))?),
            None => None,
        },
        mode: if args.sync { Mode::Sync } else { Mode::Async },
    };
    let log = logging::start(options).map_err(|e| e.to_string())?;
    if let Some(file) = &args.levels_file {
        log.reload_levels(file).map_err(|e| e.to_string())?;
    }
    Ok(log)
}

fn serve(args: ServerArgs, log: LogHandle, levels_file: Option<PathBuf>) -> Result<(), String> {
    let ServerArgs {
        member,
        cluster,
        tuning,
        data_dir,
        rejoin,
        founding,
        found,
        addresses_from_file,
        log: _,
    } = args;
    // Signals are blocked out of every other thread by being caught before they start.
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(|e| format!("signals: {e}"))?;
    explain_signals().map_err(|e| format!("signals: {e}"))?;
    let options = ServerOptions {
        id: member.id,
        cluster,
        member,
        tuning,
        data_dir,
        rejoin,
        founding,
        addresses_from_file,
    };
    if found {
        let birth = server::found(&options).map_err(|e| e.to_string())?;
        println!(
            "founded cluster {birth}; start node {} without --found now",
            member.id.0
        );
        return Ok(());
    }
    let server = Server::start(options).map_err(|e| e.to_string())?;
    let (stop, handle) = (server.stop_handle(), signals.handle());
    let watcher = thread::spawn(move || watch(signals, &stop, &log, levels_file));
    let ended = server.wait();
    handle.close();
    // Takes the log with it: what is queued is written.
    let _ = watcher.join();
    ended
}

/// Stops the server on SIGINT and SIGTERM; on SIGHUP reads the log levels again and
/// opens the log file anew.
fn watch(mut signals: Signals, stop: &StopHandle, log: &LogHandle, levels_file: Option<PathBuf>) {
    for signal in signals.forever() {
        if signal != SIGHUP {
            info!(target: "RaftClerk", "stop: signal={signal}");
            stop.stop();
            continue;
        }
        let levels = levels_file
            .as_ref()
            .map_or(Ok(()), |file| log.reload_levels(file));
        if let Err(reason) = levels.and_then(|()| log.reopen()) {
            error!(target: "RaftClerk", "SIGHUP: {reason}");
        }
    }
}
