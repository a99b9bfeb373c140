//! Compare-and-set, batches and scans against real nodes, by way of the client library and of
//! `raft_client`; and the library's sessions while leaders are killed and paused.

mod support;

use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use raftkv::client::{Client, ClientError, ClientOptions, Outcome, Range, WriteOp};
use raftkv::limits::{BATCH_OPERATIONS_MAX, SCAN_ENTRIES_MAX};
use support::cluster::{SOON, TestCluster};
use support::{count, eventually};

fn client(cluster: &TestCluster, timeout: Duration) -> Client {
    let options = ClientOptions {
        timeout,
        ..ClientOptions::default()
    };
    Client::at(cluster.clients().to_vec(), options).expect("there are addresses")
}

/// Counts in one key, up from 0, until told to stop; asserts that nobody else seems to do so, as
/// a write that is applied twice, or under another name, would.
fn count_up(mut client: Client, stop: &AtomicBool, counted: &AtomicU64) -> u64 {
    let mut number = 0_u64;
    let text = |number: u64| number.to_string();
    while !stop.load(Ordering::Relaxed) {
        let (old, new) = (text(number), text(number + 1));
        let expected = (number > 0).then_some(old.as_bytes());
        let result = client.compare_and_set(b"counter", expected, Some(new.as_bytes()));
        let mut result = result.map(|done| assert!(done, "the counter is gone at {number}"));
        while matches!(result, Err(ClientError::OutcomeUnknown { .. })) {
            result = client.resolve().map(|outcome| {
                assert_eq!(outcome, Outcome::Done, "at {number}");
            });
        }
        match result {
            Ok(()) => number += 1,
            Err(error) => assert!(error.is_safe_to_retry(), "at {number}: {error}"),
        }
        counted.store(number, Ordering::Relaxed);
    }
    number
}

#[test]
fn a_counter_in_a_session_is_exact_while_leaders_are_killed_and_paused() {
    let mut cluster = TestCluster::with_leader(3, &[]);
    let stop = Arc::new(AtomicBool::new(false));
    let counted = Arc::new(AtomicU64::new(0));
    let counter = {
        let client = client(&cluster, Duration::from_secs(2));
        let (stop, counted) = (Arc::clone(&stop), Arc::clone(&counted));
        std::thread::spawn(move || count_up(client, &stop, &counted))
    };
    let wait_for_more = |more: u64| {
        let goal = counted.load(Ordering::Relaxed) + more;
        eventually("the counter goes on", 2 * SOON, || {
            (counted.load(Ordering::Relaxed) >= goal).then_some(())
        });
    };
    for _ in 0..count("RAFTKV_ROUNDS", 3) {
        wait_for_more(20);
        let leader = cluster.wait_for_leader(SOON);
        cluster.kill(leader);
        wait_for_more(20);
        cluster.start(leader);
        let leader = cluster.wait_for_leader(SOON);
        cluster.pause(leader);
        wait_for_more(20);
        cluster.resume(leader);
    }
    wait_for_more(20);
    stop.store(true, Ordering::Relaxed);
    let number = counter.join().expect("the counter is exact");
    let found = client(&cluster, SOON).get(b"counter").expect("an answer");
    assert_eq!(found, Some(Bytes::from(number.to_string())));
    cluster.wait_for_leader(SOON);
    cluster.assert_alive();
    cluster.assert_no_panic();
}

fn update(key: String, value: &Bytes) -> WriteOp {
    let (key, value) = (Bytes::from(key), value.clone());
    WriteOp::Update { key, value }
}

#[test]
fn a_scan_comes_in_bounded_pages_that_are_all_there_is() {
    let cluster = TestCluster::with_leader(1, &[]);
    let mut client = client(&cluster, SOON);
    let keys = SCAN_ENTRIES_MAX + 500;
    let small = Bytes::from_static(b"v");
    let all: Vec<usize> = (0..keys).collect();
    for some in all.chunks(BATCH_OPERATIONS_MAX) {
        let operations = some.iter().map(|n| update(format!("n{n:06}"), &small));
        client.batch(operations.collect()).expect("applied");
    }
    let range = |from: &Bytes| Range {
        from: from.clone(),
        prefix: "n".into(),
        ..Range::default()
    };
    let first = client.scan(range(&Bytes::new())).expect("a page");
    assert_eq!(first.entries.len(), SCAN_ENTRIES_MAX);
    let next = first.next.expect("there is more");
    let last = client.scan(range(&next)).expect("a page");
    assert_eq!((last.entries.len(), last.next), (500, None));
    let found = first.entries.iter().chain(&last.entries);
    let expected = all.iter().map(|n| Bytes::from(format!("n{n:06}")));
    assert!(found.map(|(key, _)| key.clone()).eq(expected));

    let mib = Bytes::from(vec![b'x'; 1 << 20]);
    for key in ["x1", "x2", "x3"] {
        client.update(key.as_bytes(), &mib).expect("applied");
    }
    let range = Range {
        from: "n9".into(),
        ..Range::default()
    };
    let page = client.scan(range).expect("a page");
    let keys: Vec<&[u8]> = page.entries.iter().map(|(key, _)| &key[..]).collect();
    assert_eq!(keys, [b"x1"], "one entry reaches the limit");
    assert_eq!(page.next, Some("x2".into()));
}

#[test]
fn a_batch_is_all_or_nothing_and_conditions_are_told_apart() {
    let cluster = TestCluster::with_leader(3, &[]);
    let mut client = client(&cluster, SOON);
    assert_eq!(
        client.compare_and_set(b"k", Some(b"1"), Some(b"2")),
        Ok(false)
    );
    assert_eq!(client.compare_and_set(b"k", None, Some(b"1")), Ok(true));
    assert_eq!(
        client.compare_and_set(b"k", None, Some(b"2")),
        Err(ClientError::Mismatch)
    );
    assert_eq!(
        client.compare_and_set(b"k", Some(b"2"), None),
        Err(ClientError::Mismatch)
    );
    let cas = |expected: &'static [u8]| WriteOp::Cas {
        key: "k".into(),
        expected: Some(Bytes::from_static(expected)),
        new: Some("3".into()),
    };
    let value = Bytes::from_static(b"\x00\xff");
    let result = client.batch(vec![update("l".into(), &value), cas(b"2")]);
    assert_eq!(result, Err(ClientError::BatchFailed { operation: 1 }));
    assert_eq!(client.get(b"l"), Ok(None), "nothing was done");
    let result = client.batch(vec![update("l".into(), &value), cas(b"1")]);
    assert_eq!(result, Ok(()));
    let page = client.scan(Range::default()).expect("a page");
    assert_eq!(
        page.entries,
        [("k".into(), "3".into()), ("l".into(), value)]
    );
    assert_eq!(client.compare_and_set(b"k", Some(b"3"), None), Ok(true));
    assert_eq!(client.get(b"k"), Ok(None));
}

fn raft_client(node: SocketAddr, args: &[&str], input: &[u8]) -> Output {
    use std::io::Write as _;
    let mut command = Command::new(env!("CARGO_BIN_EXE_raft_client"));
    let addr = node.to_string();
    let mut child = command
        .args(["--timeout", "10", "--addr", &addr])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // One that does not read has closed it: the output says what happened.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

/// Exit code, stdout, stderr.
type Printed = (Option<i32>, String, String);

fn run(node: SocketAddr, args: &[&str], input: &[u8]) -> Printed {
    let output = raft_client(node, args, input);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn done(stdout: &str) -> Printed {
    (Some(0), stdout.to_owned(), String::new())
}

fn refused(stdout: &str) -> Printed {
    (Some(1), stdout.to_owned(), String::new())
}

#[test]
fn the_command_line_compares_and_batches() {
    let cluster = TestCluster::with_leader(1, &[]);
    let run = |args: &[&str], input: &[u8]| run(cluster.client(0), args, input);
    let failed = "internal error, operation failed: ";

    assert_eq!(
        run(&["cas", "k", "1", "2"], b""),
        refused("key not found\n")
    );
    assert_eq!(run(&["cas", "--absent", "k", "1"], b""), done("success\n"));
    let mismatch = format!("{failed}the key holds another value than expected\n");
    assert_eq!(run(&["cas", "--absent", "k", "1"], b""), refused(&mismatch));
    assert_eq!(run(&["cas", "k", "2", "3"], b""), refused(&mismatch));
    assert_eq!(run(&["cas", "k", "1", "-"], b"2"), done("success\n"));

    let words = ["batch", "put", "a", "1", "cas", "k", "1", "3"];
    let failing = format!("{failed}operation 2 of the batch cannot be carried out, so none was\n");
    assert_eq!(run(&words, b""), refused(&failing));
    let lines = b"put a \"x y\"\ncas k 2 3\n\nupdate \\xff \\n\n";
    assert_eq!(run(&["batch"], lines), done("success\n"));
    let (code, _, stderr) = run(&["batch"], b"put a");
    assert_eq!(
        (code, &stderr[..]),
        (Some(2), "line 1: `put` needs a value\n")
    );

    assert_eq!(run(&["cas", "--remove", "k", "2"], b""), refused(&mismatch));
    assert_eq!(run(&["cas", "--remove", "k", "3"], b""), done("success\n"));
    assert_eq!(run(&["get", "k"], b""), refused("key not found\n"));
    assert_eq!(run(&["scan"], b""), done("a\tx y\n\\xff\t\\n\n"));
}

#[test]
fn the_command_line_scans_as_lines_bytes_or_json() {
    let cluster = TestCluster::with_leader(1, &[]);
    let run = |args: &[&str], input: &[u8]| run(cluster.client(0), args, input);
    let lines = b"put a \"x y\"\nput k 3\nput \\xff \\n\n";
    assert_eq!(run(&["batch"], lines), done("success\n"));
    let all = "a\tx y\nk\t3\n\\xff\t\\n\n";
    assert_eq!(run(&["scan"], b""), done(all));
    assert_eq!(run(&["scan", "k"], b""), done("k\t3\n"));
    assert_eq!(
        run(&["scan", "--from", "b", "--until", "l"], b""),
        done("k\t3\n")
    );
    assert_eq!(run(&["scan", "--raw", "k"], b""), done("k\n3\n"));
    let (code, stdout, stderr) = run(&["scan", "--limit", "1"], b"");
    assert_eq!((code, &stdout[..]), (Some(0), "a\tx y\n"));
    assert_eq!(stderr, "there is more, from k on\n");
    // What it prints for a batch, a batch reads.
    let (code, printed, _) = run(&["scan", "--batch"], b"");
    assert_eq!(code, Some(0));
    for key in ["a", "k"] {
        assert_eq!(run(&["remove", key], b""), done("success\n"));
    }
    assert_eq!(run(&["batch"], printed.as_bytes()), done("success\n"));
    assert_eq!(run(&["scan"], b""), done(all));
    let json = |args: &[&str]| {
        let (code, stdout, _) = run(args, b"");
        assert_eq!(code, Some(0));
        serde_json::from_str::<serde_json::Value>(&stdout).expect("JSON")
    };
    let expected = serde_json::json!({
        "entries": [
            { "key": "a", "value": "x y" },
            { "key": "k", "value": "3" },
            { "key_hex": "ff", "value": "\n" },
        ],
        "next": null,
    });
    assert_eq!(json(&["scan", "--json"]), expected);
    let limited = json(&["scan", "--json", "--limit", "2"]);
    assert_eq!(limited["next_hex"], "ff");
    assert_eq!(
        json(&["scan", "--json", "zz"])["entries"],
        serde_json::json!([])
    );
}

#[test]
fn a_follower_reads_itself_what_it_is_asked_to_and_redirects_the_rest() {
    let mut cluster = TestCluster::with_leader(3, &[]);
    let leader = cluster.wait_for_leader(SOON);
    let follower = cluster.client((leader + 1) % 3);
    let run = |args: &[&str]| run(follower, args, b"");
    let (code, stdout, _) = run(&["put", "k", "v"]);
    assert_eq!(code, Some(0), "{stdout}");
    // It knows its leader now, and need not have applied the write: it asks how far to wait.
    let itself = ["--no-redirect", "get", "--follower", "k"];
    assert_eq!(run(&itself), done("success: v\n"));
    let redirected = format!("not leader, redirected to: {}\n", cluster.client(leader));
    let told = (Some(1), String::new(), redirected);
    assert_eq!(run(&["--no-redirect", "get", "k"]), told);
}

#[test]
fn wrong_use_of_the_added_commands_exits_with_2() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    for wrong in [
        &["cas", "k", "1"][..],
        &["cas", "--absent", "k"],
        &["cas", "--absent", "--remove", "k", "v"],
        &["scan", "a", "b"],
        &["scan", "--limit", "0"],
        &["scan", "--json", "--raw"],
        &["scan", "--batch", "--raw"],
        &["get", "--batch", "k"],
        &["get", "--limit", "1", "k"],
        &["put", "--absent", "k", "v"],
    ] {
        assert_eq!(run(nobody, wrong, b"").0, Some(2), "{wrong:?}");
    }
}
