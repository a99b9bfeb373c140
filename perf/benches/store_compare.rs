//! The ordered store beside others: time per operation and memory per key.
//!
//! ```sh
//! cargo bench --bench store_compare -- --keys 1000000 --rounds 5
//! ```
//!
//! Prints Markdown tables. The structures take turns on pieces of the work in one
//! process, so that what else goes on in the machine meets all of them alike; a
//! figure is CPU time, the median of the rounds. `--only scan` leaves out all operations
//! but that and the insertion before it. Memory is counted in a process for each
//! structure, as growth of its anonymous resident memory.

use std::collections::BTreeMap;
use std::env;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_skiplist::SkipMap;
use raftkv::kv::command::Command as StoreCommand;
use raftkv::kv::skiplist::SkipList;
use raftkv::kv::{ClientId, Identity, SessionLimits, StateMachine, WriteOp};
use raftkv::types::{EntryId, Index, Payload, Term};

const KEY_BYTES: usize = 16;
const VALUE_BYTES: usize = 100;
/// Into how many pieces the work of one operation is cut.
const PIECES: u64 = 20;
/// A scan is done as a whole, once for so many pieces.
const SCAN_PIECES: u64 = 4;
const OPERATIONS: [&str; 6] = [
    "insert",
    "get",
    "get and copy",
    "scan",
    "overwrite",
    "remove",
];
const STORES: [&str; 3] = ["raftkv", "BTreeMap", "crossbeam-skiplist"];
const REDIS_PORT: u16 = 20_290;

/// What is compared.
trait Store {
    fn insert(&mut self, key: &[u8], value: &[u8]);
    /// The length of the value.
    fn get(&self, key: &[u8]) -> Option<usize>;
    /// Copies the value.
    fn copy(&self, key: &[u8], into: &mut Vec<u8>);
    /// Passes all entries, with a look at each value.
    fn scan(&self) -> usize;
    fn overwrite(&mut self, key: &[u8], value: &[u8]);
    fn remove(&mut self, key: &[u8]) -> bool;
}

impl Store for SkipList {
    fn insert(&mut self, key: &[u8], value: &[u8]) {
        self.insert_new(key, value);
    }

    fn get(&self, key: &[u8]) -> Option<usize> {
        SkipList::get(self, key).map(<[u8]>::len)
    }

    fn copy(&self, key: &[u8], into: &mut Vec<u8>) {
        into.clear();
        into.extend_from_slice(SkipList::get(self, key).expect("it is there"));
    }

    fn scan(&self) -> usize {
        self.iter().map(|(k, v)| k.len() + first_byte(v)).sum()
    }

    fn overwrite(&mut self, key: &[u8], value: &[u8]) {
        self.upsert(key, value);
    }

    fn remove(&mut self, key: &[u8]) -> bool {
        SkipList::remove(self, key)
    }
}

type BoxMap = BTreeMap<Box<[u8]>, Box<[u8]>>;

impl Store for BoxMap {
    fn insert(&mut self, key: &[u8], value: &[u8]) {
        BTreeMap::insert(self, key.into(), value.into());
    }

    fn get(&self, key: &[u8]) -> Option<usize> {
        BTreeMap::get(self, key).map(|value| value.len())
    }

    fn copy(&self, key: &[u8], into: &mut Vec<u8>) {
        into.clear();
        into.extend_from_slice(BTreeMap::get(self, key).expect("it is there"));
    }

    fn scan(&self) -> usize {
        self.iter().map(|(k, v)| k.len() + first_byte(v)).sum()
    }

    fn overwrite(&mut self, key: &[u8], value: &[u8]) {
        *self.get_mut(key).expect("it is there") = value.into();
    }

    fn remove(&mut self, key: &[u8]) -> bool {
        BTreeMap::remove(self, key).is_some()
    }
}

type BoxSkipMap = SkipMap<Box<[u8]>, Box<[u8]>>;

impl Store for BoxSkipMap {
    fn insert(&mut self, key: &[u8], value: &[u8]) {
        SkipMap::insert(self, key.into(), value.into());
    }

    fn get(&self, key: &[u8]) -> Option<usize> {
        SkipMap::get(self, key).map(|entry| entry.value().len())
    }

    fn copy(&self, key: &[u8], into: &mut Vec<u8>) {
        into.clear();
        into.extend_from_slice(SkipMap::get(self, key).expect("it is there").value());
    }

    fn scan(&self) -> usize {
        self.iter()
            .map(|entry| entry.key().len() + first_byte(entry.value()))
            .sum()
    }

    fn overwrite(&mut self, key: &[u8], value: &[u8]) {
        SkipMap::insert(self, key.into(), value.into());
    }

    fn remove(&mut self, key: &[u8]) -> bool {
        SkipMap::remove(self, key).is_some()
    }
}

fn first_byte(value: &[u8]) -> usize {
    value.first().map_or(0, |&byte| usize::from(byte))
}

fn make_store(name: &str) -> Box<dyn Store> {
    match name {
        "raftkv" => Box::new(SkipList::new()),
        "BTreeMap" => Box::new(BoxMap::new()),
        "crossbeam-skiplist" => Box::new(BoxSkipMap::new()),
        other => panic!("{other} is not compared"),
    }
}

/// A bijection, so that all keys are different (splitmix64).
fn mix(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// The key with this number: random bytes.
fn key(number: u64) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&mix(number).to_be_bytes());
    key[8..].copy_from_slice(&mix(!number).to_be_bytes());
    key
}

/// Goes through all numbers below `keys` once, in an order that is not that of insertion.
struct Shuffled {
    keys: u64,
    step: u64,
}

impl Shuffled {
    fn new(keys: u64, seed: u64) -> Shuffled {
        let mut step = (mix(seed) % keys.max(2)) | 1;
        while greatest_common_divisor(step, keys) != 1 {
            step += 2;
        }
        Shuffled { keys, step }
    }

    fn at(&self, place: u64) -> u64 {
        (u128::from(place) * u128::from(self.step) % u128::from(self.keys)) as u64
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

/// What one operation does for the places `from..to`.
fn work(store: &mut dyn Store, operation: &str, from: u64, to: u64, order: &Shuffled) {
    let value = [b'v'; 2 * VALUE_BYTES];
    let mut copy = Vec::with_capacity(value.len());
    match operation {
        "insert" => (from..to).for_each(|n| store.insert(&key(n), &value[..VALUE_BYTES])),
        "get" => {
            for place in from..to {
                assert!(black_box(store.get(&key(order.at(place)))).is_some());
            }
        }
        "get and copy" => {
            for place in from..to {
                store.copy(&key(order.at(place)), &mut copy);
                black_box(&copy);
            }
        }
        "scan" => {
            // Every fourth piece does all of it.
            if (from * PIECES / order.keys).is_multiple_of(SCAN_PIECES) {
                black_box(store.scan());
            }
        }
        // Every other value has another length.
        "overwrite" => {
            for place in from..to {
                let len = VALUE_BYTES + (place % 2 * (mix(place) % 41)) as usize
                    - 20 * (place % 2) as usize;
                store.overwrite(&key(order.at(place)), &value[..len]);
            }
        }
        "remove" => {
            for place in from..to {
                assert!(store.remove(&key(order.at(place))));
            }
        }
        other => panic!("{other} is no operation"),
    }
}

/// The CPU time of this thread: others that run in between do not count.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("schedstat");
    let nanoseconds = text.split_whitespace().next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number of nanoseconds"))
}

/// Nanoseconds per key of each operation and store, in one round.
fn round(keys: u64, number: u64, operations: &[&str]) -> Vec<[f64; STORES.len()]> {
    let mut stores: Vec<Box<dyn Store>> = STORES.iter().map(|name| make_store(name)).collect();
    let mut figures = Vec::new();
    for (which, operation) in operations.iter().enumerate() {
        let order = Shuffled::new(keys, number * 100 + which as u64);
        let mut spent = [Duration::ZERO; STORES.len()];
        for piece in 0..PIECES {
            let (from, to) = (piece * keys / PIECES, (piece + 1) * keys / PIECES);
            for turn in 0..STORES.len() {
                let turn = (turn + piece as usize) % STORES.len();
                let start = cpu_time();
                work(stores[turn].as_mut(), operation, from, to, &order);
                spent[turn] += cpu_time() - start;
            }
        }
        let passes = if *operation == "scan" {
            PIECES / SCAN_PIECES
        } else {
            1
        };
        figures.push(spent.map(|time| time.as_nanos() as f64 / (passes * keys) as f64));
    }
    figures
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn print_times(keys: u64, rounds: u64, operations: &[&str]) {
    let all: Vec<_> = (0..rounds)
        .map(|number| round(keys, number, operations))
        .collect();
    println!(
        "\n| ns per key | {} | / BTreeMap | / crossbeam |",
        STORES.join(" | ")
    );
    println!("|---|{}", "---|".repeat(STORES.len() + 2));
    for (which, operation) in operations.iter().enumerate() {
        let column = |store: usize| median(all.iter().map(|round| round[which][store]).collect());
        let ratio = |to: usize| {
            median(
                all.iter()
                    .map(|round| round[which][0] / round[which][to])
                    .collect(),
            )
        };
        println!(
            "| {operation} | {:.0} | {:.0} | {:.0} | {:.2} | {:.2} |",
            column(0),
            column(1),
            column(2),
            ratio(1),
            ratio(2)
        );
    }
}

fn update(number: u64, client: u64) -> Payload {
    let op = WriteOp::Update {
        key: Bytes::copy_from_slice(&key(number)),
        value: Bytes::from_static(&[b'v'; VALUE_BYTES]),
    };
    let identity = Identity::Implicit {
        client: ClientId(u128::from(mix(client)) << 64 | u128::from(mix(!client))),
        sequence: 1,
    };
    Payload::Command(StoreCommand::Write { identity, op }.encode())
}

/// Nanoseconds per applied update and per get of the state machine with all keys in it.
fn print_state_machine(keys: u64, rounds: u64) {
    let mut machine = StateMachine::new(SessionLimits::default());
    let mut index = 0;
    let mut apply = |machine: &mut StateMachine, payload: &Payload| {
        index += 1;
        let id = EntryId {
            term: Term(1),
            index: Index(index),
        };
        machine.apply(id, payload)
    };
    for number in 0..keys {
        apply(&mut machine, &update(number, number));
    }
    let (mut updates, mut gets) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let order = Shuffled::new(keys, round);
        let some = keys / 5;
        let entries: Vec<Payload> = (0..some)
            .map(|place| update(order.at(place), (round + 2) * keys + place))
            .collect();
        let start = cpu_time();
        for entry in &entries {
            black_box(apply(&mut machine, entry));
        }
        updates.push((cpu_time() - start).as_nanos() as f64 / some as f64);
        let start = cpu_time();
        for place in 0..some {
            assert!(black_box(machine.get_ref(&key(order.at(place)))).is_some());
        }
        gets.push((cpu_time() - start).as_nanos() as f64 / some as f64);
    }
    println!("\n| state machine, ns | |\n|---|---|");
    println!(
        "| apply an update with an identity of its own | {:.0} |",
        median(updates)
    );
    println!("| get, as bytes to answer with | {:.0} |", median(gets));
}

/// The anonymous resident memory of a process, in bytes.
fn anonymous_bytes(process: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).expect("rollup");
    let line = text.lines().find(|line| line.starts_with("Anonymous:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.expect("a number of KiB") << 10
}

/// In a process of its own: fills one structure and prints how much memory came with it.
fn fill_and_tell(name: &str, keys: u64) {
    let before = anonymous_bytes("self");
    let mut store = make_store(name);
    work(store.as_mut(), "insert", 0, keys, &Shuffled::new(keys, 0));
    println!("{}", anonymous_bytes("self").saturating_sub(before));
}

fn memory_of(name: &str, keys: u64) -> u64 {
    let program = env::current_exe().expect("our own path");
    let output = Command::new(program)
        .args(["--memory", name, "--keys", &keys.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .expect("ourselves again");
    let text = String::from_utf8(output.stdout).expect("a number");
    text.trim().parse().expect("a number")
}

/// A redis server without persistence; ended when dropped.
struct Redis(Child);

impl Redis {
    fn start() -> Option<Redis> {
        let child = Command::new("redis-server")
            .args([
                "--port",
                &REDIS_PORT.to_string(),
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        Some(Redis(child))
    }

    fn connect(&self) -> TcpStream {
        for _ in 0..200 {
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", REDIS_PORT)) {
                return stream;
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("redis does not listen");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What redis takes for the same entries.
fn memory_of_redis(keys: u64) -> Option<u64> {
    let redis = Redis::start()?;
    let mut stream = redis.connect();
    let process = redis.0.id().to_string();
    let before = anonymous_bytes(&process);
    let answer = b"+OK\r\n";
    for from in (0..keys).step_by(1_000) {
        let to = keys.min(from + 1_000);
        let mut request = Vec::new();
        for number in from..to {
            request.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$16\r\n");
            request.extend_from_slice(&key(number));
            request.extend_from_slice(b"\r\n$100\r\n");
            request.extend_from_slice(&[b'v'; VALUE_BYTES]);
            request.extend_from_slice(b"\r\n");
        }
        stream.write_all(&request).expect("redis reads");
        let mut answers = vec![0; answer.len() * (to - from) as usize];
        stream.read_exact(&mut answers).expect("redis answers");
    }
    Some(anonymous_bytes(&process).saturating_sub(before))
}

fn print_memory(keys: u64) {
    let data_bytes = keys * (KEY_BYTES + VALUE_BYTES) as u64;
    println!("\n| memory | MiB | bytes per key over the data |\n|---|---|---|");
    let ours = STORES
        .iter()
        .map(|name| (*name, Some(memory_of(name, keys))));
    for (name, bytes) in ours.chain([("redis", memory_of_redis(keys))]) {
        match bytes {
            Some(bytes) => println!(
                "| {name} | {:.1} | {:.1} |",
                bytes as f64 / f64::from(1 << 20),
                (bytes as f64 - data_bytes as f64) / keys as f64
            ),
            None => println!("| {name} | not installed | – |"),
        }
    }
}

fn main() {
    let args: Vec<String> = env::args().collect();
    let value_of = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1).cloned()
    };
    let number = |name: &str, default: u64| {
        value_of(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let (keys, rounds) = (number("--keys", 1_000_000), number("--rounds", 5));
    if let Some(name) = value_of("--memory") {
        fill_and_tell(&name, keys);
        return;
    }
    println!("{keys} random keys of {KEY_BYTES} B, values of {VALUE_BYTES} B, {rounds} rounds");
    if let Some(only) = value_of("--only") {
        print_times(keys, rounds, &["insert", &only]);
        return;
    }
    print_memory(keys);
    print_times(keys, rounds, &OPERATIONS);
    print_state_machine(keys, rounds);
}
