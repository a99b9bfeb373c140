//! How fast a log is read back after a crash, beside `cat` of the same files and a plain
//! CRC-32 over them, and what memory that takes.
//!
//! ```sh
//! cargo bench --bench recovery -- --mib 1024 --record 1024 --rounds 5
//! ```
//!
//! Writes a log of updates, of 100,000 keys in turn, into a directory of its own under `target/`
//! (or `$TMPDIR`) and reads it in turns, each in a process of its own. `from the device`: what the
//! page cache has of the files is dropped first; recovery does so anyway. `from memory`:
//! what the checksums and the entries cost by themselves. Prints Markdown; a figure is
//! the median of the rounds.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{env, process};

use bytes::Bytes;
use raftkv::disk::{DataDir, DirReader, DiskEvent, FileDisk};
use raftkv::kv::{self, Identity, SessionLimits, StateMachine, WriteOp};
use raftkv::types::{Entry, EntryId, NodeId, Payload};
use raftkv::wal::{self, Batch, Wal, WalOptions};

const KEYS: u64 = 100_000;
const KEY_BYTES: usize = 16;
/// Entries of a batch, about as many as 64 connections make.
const BATCH: u64 = 24;
/// Batches on their way to the disk, at most.
const AHEAD_MAX: u64 = 1_024;
const READ_BYTES: usize = 1 << 20;
const NODE: NodeId = NodeId(0);
const CLUSTER_ID: u64 = 1;

/// What is done with the log in turn.
const TURNS: [(&str, &str); 6] = [
    ("cat", "`cat`, from the device"),
    ("crc", "CRC-32, from the device"),
    ("recover", "**recovery**, from the device"),
    ("crc-warm", "CRC-32, from memory"),
    ("recover-warm", "**recovery**, from memory"),
    ("apply", "the entries applied to an empty store"),
];

/// What one turn says of itself.
#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    seconds: f64,
    cpu_seconds: f64,
    /// The most resident memory that came with it.
    peak_bytes: f64,
    entries: f64,
}

impl Turn {
    fn parse(line: &str) -> Option<Turn> {
        let mut fields = line.split_whitespace().map(|field| field.parse().ok());
        let mut next = || fields.next().flatten();
        Some(Turn {
            seconds: next()?,
            cpu_seconds: next()?,
            peak_bytes: next()?,
            entries: next()?,
        })
    }
}

fn options(incarnation: u64) -> WalOptions {
    WalOptions::new(NODE, CLUSTER_ID, incarnation)
}

fn open(dir: &Path) -> (FileDisk, mpsc::Receiver<DiskEvent>, WalOptions) {
    let data = DataDir::open(dir, NODE, CLUSTER_ID).expect("a data directory");
    let options = options(data.meta().incarnation);
    let (sender, events) = mpsc::channel();
    // At the end nobody listens any more.
    let sink = move |event| drop(sender.send(event));
    let disk = FileDisk::open(data, Arc::new(sink)).expect("three threads");
    (disk, events, options)
}

/// An update whose record in the log has `record_bytes`, its header not counted.
fn update(number: u64, record_bytes: usize) -> Payload {
    let value = vec![b'v'; record_bytes.saturating_sub(KEY_BYTES)];
    let op = WriteOp::Update {
        key: Bytes::from(format!("key-{:012}", number % KEYS)),
        value: Bytes::from(value),
    };
    let identity = Identity::None;
    Payload::Command(kv::Command::Write { identity, op }.encode())
}

/// Writes a log of about so many bytes; returns the bytes of its batches.
fn write_log(dir: &Path, bytes: u64, record_bytes: usize) -> u64 {
    let (mut disk, events, options) = open(dir);
    let (mut wal, _) = Wal::recover(&mut disk, options).expect("an empty log");
    let mut next = 1;
    let taken = |wal: &mut Wal, disk: &mut FileDisk, wait: bool| {
        let event = if wait {
            events.recv().ok()
        } else {
            events.try_recv().ok()
        };
        let event = event.filter(|event| wal.on_event(disk, event).is_ok());
        assert!(event.is_some() || !wait, "the disk works");
        event.is_some()
    };
    while wal.counters().bytes < bytes {
        let entry = |index| Entry {
            id: EntryId::new(1, index),
            payload: update(index, record_bytes),
        };
        let entries: Vec<Entry> = (next..next + BATCH).map(entry).collect();
        next += BATCH;
        let batch = Batch {
            entries: &entries,
            ..Batch::default()
        };
        wal.append(&mut disk, batch);
        while taken(&mut wal, &mut disk, false) {}
        while wal.appended().0 - wal.durable().0 > AHEAD_MAX {
            taken(&mut wal, &mut disk, true);
        }
    }
    while wal.durable() < wal.appended() {
        taken(&mut wal, &mut disk, true);
    }
    wal.seal(&mut disk);
    wal.counters().bytes
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let inside = fs::read_dir(dir.join(format!("raftnode_{}", NODE.0))).expect("a data directory");
    let mut paths: Vec<PathBuf> = inside
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    paths.sort();
    paths
}

fn drop_from_cache(paths: &[PathBuf]) {
    for path in paths {
        let file = File::open(path).expect("a segment");
        file.sync_all().expect("a disk");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
    }
}

fn crc_of(paths: &[PathBuf]) -> io::Result<u32> {
    let (mut hasher, mut buf) = (crc32fast::Hasher::new(), vec![0; READ_BYTES]);
    for path in paths {
        let mut file = File::open(path)?;
        loop {
            match file.read(&mut buf)? {
                0 => break,
                count => hasher.update(&buf[..count]),
            }
        }
    }
    Ok(hasher.finalize())
}

fn status_bytes(name: &str) -> f64 {
    let text = fs::read_to_string("/proc/self/status").expect("status");
    let line = text.lines().find(|line| line.starts_with(name));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kib.expect("a number of KiB") * 1024.0
}

/// User and system time of all threads of the process.
fn cpu_time() -> Duration {
    let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(usage.tv_sec as u64, usage.tv_nsec as u32)
}

/// Does `work` and prints what it took, in the form of [`Turn`].
fn tell(work: impl FnOnce() -> usize) {
    let resident = status_bytes("VmRSS:");
    let (start, cpu) = (Instant::now(), cpu_time());
    let entries = work();
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_time() - cpu);
    let peak = status_bytes("VmHWM:") - resident;
    println!("{seconds} {} {peak} {entries}", cpu.as_secs_f64());
}

/// In a process of its own: one turn.
fn take_turn(turn: &str, dir: &Path) {
    let paths = segments(dir);
    match turn {
        "crc" | "crc-warm" => tell(|| {
            black_box(crc_of(&paths).expect("segments"));
            0
        }),
        "recover" => {
            let (mut disk, _events, options) = open(dir);
            tell(|| {
                // What is read is kept until memory was looked at.
                let (_, recovered) = Wal::read(&mut disk, options).expect("a log");
                Box::leak(Box::new(recovered)).entries.len()
            });
            // The lock is gone with the process; nothing was begun that has to end.
            process::exit(0);
        }
        "recover-warm" => {
            let (mut source, options) = reader(dir);
            tell(|| {
                let (recovered, _) = wal::verify_log(&mut source, &options).expect("a log");
                Box::leak(Box::new(recovered)).entries.len()
            });
        }
        "apply" => {
            let (mut source, options) = reader(dir);
            let (recovered, _) = wal::verify_log(&mut source, &options).expect("a log");
            let mut machine = StateMachine::new(SessionLimits::default());
            tell(|| {
                for entry in &recovered.entries {
                    black_box(machine.apply(entry.id, &entry.payload));
                }
                recovered.entries.len()
            });
        }
        other => panic!("{other} is no turn"),
    }
}

fn reader(dir: &Path) -> (DirReader, WalOptions) {
    let source = DirReader::new(&dir.join(format!("raftnode_{}", NODE.0)));
    let meta = source.meta().expect("meta").expect("meta");
    (source, options(meta.incarnation))
}

/// Has a turn taken in a process of its own.
fn turn(name: &str, dir: &Path) -> Turn {
    let paths = segments(dir);
    if name.ends_with("-warm") {
        crc_of(&paths).expect("segments");
    } else {
        drop_from_cache(&paths);
    }
    if name == "cat" {
        let start = Instant::now();
        let status = Command::new("cat")
            .args(&paths)
            .stdout(Stdio::null())
            .status();
        assert!(status.expect("cat").success(), "cat has read the segments");
        return Turn {
            seconds: start.elapsed().as_secs_f64(),
            ..Turn::default()
        };
    }
    let output = Command::new(env::current_exe().expect("our own path"))
        .args(["--turn", name, "--dir", &dir.display().to_string()])
        .stderr(Stdio::inherit())
        .output()
        .expect("ourselves again");
    let text = String::from_utf8_lossy(&output.stdout);
    Turn::parse(&text).unwrap_or_else(|| panic!("{name} has failed"))
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn print(all: &[Vec<Turn>], file_bytes: f64, log_bytes: f64) {
    let of = |which: usize, figure: &dyn Fn(&Turn) -> f64| {
        median(all.iter().map(|round| figure(&round[which])))
    };
    println!("| | MB/s | CPU, MB/s | entries/s | memory, MiB | of it beyond the log |");
    println!("|---|---|---|---|---|---|");
    for (which, (name, title)) in TURNS.iter().enumerate() {
        let seconds = of(which, &|turn| turn.seconds);
        let cpu = of(which, &|turn| turn.cpu_seconds);
        let entries = of(which, &|turn| turn.entries);
        let peak = of(which, &|turn| turn.peak_bytes);
        // The others read the files whole, their unused ends as well.
        let bytes = if *name == "apply" {
            log_bytes
        } else {
            file_bytes
        };
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        let or_dash = |shown: bool, text: String| if shown { text } else { "–".into() };
        println!(
            "| {title} | {:.0} | {} | {} | {} | {} |",
            bytes / seconds / 1e6,
            or_dash(cpu > 0.0, format!("{:.0}", bytes / cpu / 1e6)),
            or_dash(entries > 0.0, format!("{:.0}", entries / seconds)),
            or_dash(peak > 0.0, format!("{:.0}", mib(peak))),
            or_dash(
                name.starts_with("recover"),
                format!("{:.0}", mib(peak - log_bytes))
            ),
        );
    }
}

fn main() {
    let (mut mib, mut record_bytes, mut rounds) = (1024_u64, 1024_usize, 5_u64);
    let (mut turn_name, mut dir) = (None, None);
    let mut args = env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || -> u64 {
            let number = args.next().and_then(|number| number.parse().ok());
            number.expect("a whole number")
        };
        match arg.as_str() {
            "--mib" => mib = number(),
            "--record" => record_bytes = number() as usize,
            "--rounds" => rounds = number(),
            "--turn" => turn_name = args.next(),
            "--dir" => dir = args.next().map(PathBuf::from),
            // What cargo adds.
            "--bench" => {}
            other => panic!("{other} is no option; --mib N, --record BYTES, --rounds N"),
        }
    }
    if let (Some(turn), Some(dir)) = (turn_name, dir) {
        return take_turn(&turn, &dir);
    }
    // On the disk of the checkout: /tmp is often memory.
    let parent = env::var_os("TMPDIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let temp = tempfile::tempdir_in(parent).expect("a directory");
    let log_bytes = write_log(temp.path(), mib << 20, record_bytes) as f64;
    let files = segments(temp.path());
    let lens = files
        .iter()
        .map(|path| path.metadata().expect("a segment").len());
    let file_bytes = lens.sum::<u64>() as f64;
    let mut all = Vec::new();
    for round in 1..=rounds {
        let mut err = io::stderr();
        let _ = writeln!(err, "round {round} of {rounds}");
        all.push(TURNS.map(|(name, _)| turn(name, temp.path())).to_vec());
    }
    println!(
        "{:.0} MiB in {} segments, records of {record_bytes} bytes, {rounds} rounds\n",
        log_bytes / f64::from(1 << 20),
        files.len()
    );
    print(&all, file_bytes, log_bytes);
}
