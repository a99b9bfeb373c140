//! The end of a process in which a thread has panicked.

use std::panic;
use std::process;
use std::thread;
use std::time::Duration;

use crossbeam_channel::bounded;

/// How long the last words may take: the thread that panicked may be the one that
/// writes the log.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Has a panic in any thread end the process, by SIGABRT, once stderr and the log say
/// why and what is queued of the log is written.
///
/// A thread has found its own state broken; the others, which know nothing of it,
/// would go on as half a node, that answers nobody but holds its ports and its lock.
pub fn abort_on_panic() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        report(info);
        let name = thread::current().name().unwrap_or("?").to_owned();
        let what = info.to_string().replace('\n', " ");
        // By another thread: this one may hold what logging needs.
        let (done, said) = bounded(1);
        let logged = thread::Builder::new().spawn(move || {
            log::error!(target: "RaftClerk", "stop: thread={name} {what}");
            log::logger().flush();
            let _ = done.send(());
        });
        if logged.is_ok() {
            let _ = said.recv_timeout(LAST_WORDS);
        }
        process::abort();
    }));
}
