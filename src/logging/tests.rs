use std::io::{self, Write};
use std::sync::Mutex;

use log::{Level, Log, Record};

use super::*;

/// A stream that remembers.
#[derive(Clone, Default)]
struct Stream(Arc<Mutex<Vec<u8>>>);

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

struct Fixture {
    logger: Box<dyn Log>,
    handle: LogHandle,
    out: Stream,
    err: Stream,
}

fn fixture(options: LogOptions) -> Fixture {
    let (out, err) = (Stream::default(), Stream::default());
    let console = Console {
        out: Box::new(out.clone()),
        err: Box::new(err.clone()),
    };
    let (logger, handle) = build(options, console).unwrap();
    Fixture {
        logger,
        handle,
        out,
        err,
    }
}

/// Options whose lines are `NAME level message`.
fn plain(mode: Mode) -> LogOptions {
    LogOptions {
        pattern: "%n %l %v".parse().unwrap(),
        mode,
        ..LogOptions::default()
    }
}

fn say(logger: &dyn Log, target: &str, level: Level, message: &str) {
    logger.log(
        &Record::builder()
            .target(target)
            .level(level)
            .args(format_args!("{message}"))
            .build(),
    );
}

const MODES: [Mode; 2] = [Mode::Async, Mode::Sync];

#[test]
fn errors_go_to_stderr_and_the_rest_to_stdout() {
    for mode in MODES {
        let f = fixture(plain(mode));
        say(&*f.logger, "Raft", Level::Warn, "a");
        say(&*f.logger, "Raft", Level::Error, "b");
        say(&*f.logger, "RaftRpc", Level::Info, "c");
        say(&*f.logger, "RaftRpc", Level::Debug, "below the default");
        f.handle.flush();
        assert_eq!(f.out.text(), "Raft warn a\nRaftRpc info c\n");
        assert_eq!(f.err.text(), "Raft error b\n");
    }
}

#[test]
fn nothing_is_lost_when_the_handle_is_dropped() {
    for mode in MODES {
        let f = fixture(plain(mode));
        for n in 0..1000 {
            say(&*f.logger, "Raft", Level::Info, &n.to_string());
        }
        drop(f.handle);
        say(&*f.logger, "Raft", Level::Info, "late");
        let text = f.out.text();
        assert_eq!(text.lines().count(), 1001);
        assert!(text.ends_with("Raft info 999\nRaft info late\n"));
    }
}

#[test]
fn levels_change_while_it_runs_for_one_module_alone() {
    let f = fixture(plain(Mode::Sync));
    f.handle.set_levels("warn,Raft=trace").unwrap();
    say(&*f.logger, "Raft", Level::Trace, "1");
    say(&*f.logger, "RaftRpc", Level::Info, "2");
    assert!(f.handle.set_levels("warn,Raft=loud").is_err());
    assert_eq!(f.handle.levels(), "warn,Raft=trace");

    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "# quiet\nerror\nRaftRpc=info").unwrap();
    f.handle.reload_levels(file.path()).unwrap();
    say(&*f.logger, "Raft", Level::Warn, "3");
    say(&*f.logger, "RaftRpc", Level::Info, "4");
    assert_eq!(f.out.text(), "Raft trace 1\nRaftRpc info 4\n");
    assert!(f.handle.reload_levels(Path::new("/nonexistent")).is_err());
}

#[test]
fn a_file_is_made_with_its_directory_and_appended_to() {
    for mode in MODES {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/node.log");
        for message in ["first", "second"] {
            let f = fixture(LogOptions {
                file: Some(path.clone()),
                ..plain(mode)
            });
            say(&*f.logger, "Raft", Level::Error, message);
            drop(f.handle);
            assert_eq!(f.err.text() + &f.out.text(), "");
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "Raft error first\nRaft error second\n");
    }
}

#[test]
fn rotation_by_size_keeps_the_newest_lines_in_so_many_files() {
    for mode in MODES {
        let dir = tempfile::tempdir().unwrap();
        let f = fixture(LogOptions {
            file: Some(dir.path().join("node.log")),
            console: true,
            rotation: Some("size=1K,keep=2".parse().unwrap()),
            ..plain(mode)
        });
        let lines = 400;
        for n in 0..lines {
            say(&*f.logger, "Raft", Level::Info, &format!("{n:05}"));
        }
        drop(f.handle);
        drop(f.logger);
        assert_eq!(f.out.text().lines().count(), lines);

        let mut files: Vec<PathBuf> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        // `_r00042.log` comes before `_rCURRENT.log`.
        files.sort();
        assert_eq!(files.len(), 3, "{files:?}");
        assert!(files[2].ends_with("node_rCURRENT.log"));
        let text: String = files
            .iter()
            .map(|file| std::fs::read_to_string(file).unwrap())
            .collect();
        let numbers: Vec<usize> = text
            .lines()
            .map(|line| line.strip_prefix("Raft info ").unwrap().parse().unwrap())
            .collect();
        assert!(numbers.len() > 100);
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        assert_eq!(numbers.last(), Some(&(lines - 1)));
    }
}

#[test]
fn a_stuck_console_drops_lines_with_a_notice_instead_of_blocking() {
    struct Gate(Arc<Mutex<()>>, Stream);
    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _open = self.0.lock();
            self.1.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (gate, out) = (Arc::new(Mutex::new(())), Stream::default());
    let console = Console {
        out: Box::new(Gate(Arc::clone(&gate), out.clone())),
        err: Box::new(io::sink()),
    };
    let (logger, handle) = build(plain(Mode::Async), console).unwrap();
    let big = "x".repeat(60 << 10);
    let shut = gate.lock().unwrap();
    for _ in 0..400 {
        say(&*logger, "Raft", Level::Info, &big);
    }
    drop(shut);
    handle.flush();
    say(&*logger, "Raft", Level::Info, "afterwards");
    drop(handle);
    let text = out.text();
    let notice = text.lines().nth_back(1).unwrap_or_default();
    let dropped = notice
        .strip_prefix("Log warn log too slow, lines dropped: count=")
        .unwrap();
    let kept = text.lines().filter(|line| line.contains("xxx")).count();
    assert_eq!(kept + dropped.parse::<usize>().unwrap(), 400);
    assert!(text.ends_with("Raft info afterwards\n"));
}

#[test]
fn misconfiguration_is_told_at_the_start() {
    let refused = |options| {
        let console = Console {
            out: Box::new(io::sink()),
            err: Box::new(io::sink()),
        };
        build(options, console).map(drop).unwrap_err().to_string()
    };
    let dir = tempfile::tempdir().unwrap();
    let error = refused(LogOptions {
        file: Some(dir.path().to_path_buf()),
        ..LogOptions::default()
    });
    assert!(error.contains(dir.path().to_str().unwrap()), "{error}");
    let error = refused(LogOptions {
        rotation: Some("age=day".parse().unwrap()),
        ..LogOptions::default()
    });
    assert!(error.contains("none is named"), "{error}");
}
