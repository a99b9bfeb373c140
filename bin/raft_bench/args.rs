//! The command line, and the plan that it comes to.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use raftkv::client::resolve;
use raftkv::config::Config;
use raftkv::limits::{CONNECTION_REQUESTS_MAX, SESSIONS_MAX};
use raftkv::pb::OperationType;

use crate::keys::{KEYS_MAX, Spec};
use crate::lane::SLOTS_MAX;
use crate::schedule::Arrivals;
use crate::workload::{Mix, ValueBytes};

/// Longer is a typing error.
const SECONDS_MAX: f64 = 86_400.0;
/// Shorter intervals would be mostly noise.
const INTERVAL_SECONDS_MIN: f64 = 0.01;
/// More arrivals a second than a thread can send.
const RATE_MAX: f64 = 1e8;
/// Beyond it all draws are the first key.
const EXPONENT_MAX: f64 = 10.0;

const _: () = assert!(SLOTS_MAX <= CONNECTION_REQUESTS_MAX, "a node reads so many");

/// Loads a cluster, and says what it answers, how fast, and what that costs.
///
/// Closed loop, the default: each connection has --pipeline requests in flight and sends the next
/// as soon as one is answered. Open loop (--rate): requests start at fixed times whatever the answers do; latency
/// counts from the intended start, so that a stall shows in every request that it has delayed.
#[derive(Debug, Parser)]
#[command(
    name = "raft_bench",
    version,
    after_help = "\
Examples:
  raft_bench --addr 127.0.0.1:4397 --connections 64 --seconds 10
      writes in a closed loop to the cluster of that node
  raft_bench --cluster cluster.toml --mix update=20,get=80 --distribution zipf --rate 5000 --svg run.svg
      5,000 operations a second, most of them on few keys, and a picture of them over time
  raft_bench --cluster cluster.toml --rates 1000,2000,4000,8000 --arrivals poisson --seconds 5 --svg sweep.svg
      latency against load
  raft_bench --cluster cluster.toml --op put --distribution unique --value-bytes 64-4096 --json run.json
      new keys with values of mixed sizes

Results go to stdout, progress to stderr if that is a terminal.
Exit codes: 0 measured, 1 a result could not be written, 2 wrong usage, 3 the cluster is not reachable or has answered
nothing. Operations that fail are counted by kind and end nothing: a run goes on through a change of leader."
)]
pub struct Cli {
    /// A node's client address; may be given more than once. The leader among them is loaded. One of
    /// --addr and --cluster has to be given: the keys of the load are written to that cluster
    #[arg(long = "addr", value_name = "HOST:PORT")]
    addrs: Vec<String>,
    /// The cluster's TOML file, for the addresses in it
    #[arg(long, value_name = "FILE", conflicts_with = "addrs")]
    cluster: Option<PathBuf>,
    /// A process whose CPU time is counted; may be given more than once, the leader's first
    #[arg(long = "server-pid", value_name = "PID")]
    pids: Vec<u32>,

    /// What is asked for
    #[arg(
        long,
        value_enum,
        default_value = "update",
        help_heading = "Operations"
    )]
    op: Op,
    /// Operations in proportion: put, update, get, remove
    #[arg(
        long,
        value_name = "OP=N,…",
        conflicts_with = "op",
        help_heading = "Operations"
    )]
    mix: Option<Mix>,
    /// How keys are chosen
    #[arg(
        long,
        value_enum,
        default_value = "uniform",
        help_heading = "Operations"
    )]
    distribution: Distribution,
    /// The exponent of zipf: 0 is uniform, 0.99 what many benchmarks use
    #[arg(
        long,
        value_name = "S",
        default_value_t = 0.99,
        help_heading = "Operations"
    )]
    zipf_exponent: f64,
    /// How many keys there are, of 16 bytes; unique keys have no bound
    #[arg(
        long, value_name = "N", default_value_t = 100_000, help_heading = "Operations",
        value_parser = clap::value_parser!(u64).range(1..=KEYS_MAX),
    )]
    keys: u64,
    /// Bytes of a value: N, a range LEAST-MOST, or a list N,N,…
    #[arg(
        long,
        value_name = "BYTES",
        default_value = "100",
        help_heading = "Operations"
    )]
    value_bytes: ValueBytes,
    /// Write in explicit sessions, one a connection, instead of under a uuid
    #[arg(long, help_heading = "Operations")]
    sessions: bool,

    /// Connections
    #[arg(
        long, value_name = "N", default_value_t = 64, help_heading = "Load",
        value_parser = clap::value_parser!(u32).range(1..=16_000),
    )]
    connections: u32,
    /// Requests in flight on each, at most
    #[arg(
        long, value_name = "N", default_value_t = 1, help_heading = "Load",
        value_parser = clap::value_parser!(u32).range(1..=1_000),
    )]
    pipeline: u32,
    /// Open loop: so many operations a second
    #[arg(long, value_name = "OPS", value_parser = rate, help_heading = "Load")]
    rate: Option<f64>,
    /// Open loop, one run after the other with each of these rates: latency against load
    #[arg(
        long, value_name = "OPS,…", value_parser = rate, value_delimiter = ',',
        conflicts_with = "rate", help_heading = "Load",
    )]
    rates: Vec<f64>,
    /// How the arrivals of an open loop follow each other
    #[arg(long, value_enum, default_value = "even", help_heading = "Load")]
    arrivals: Arrivals,
    /// Threads that send; more than one is of use only where cores are idle
    #[arg(
        long, value_name = "N", default_value_t = 1, help_heading = "Load",
        value_parser = clap::value_parser!(u32).range(1..=64),
    )]
    threads: u32,
    /// How long is measured
    #[arg(long, value_name = "SECS", default_value = "5", value_parser = seconds, help_heading = "Load")]
    seconds: Duration,
    /// How long before that is not measured
    #[arg(long, value_name = "SECS", default_value = "1", value_parser = seconds_or_none, help_heading = "Load")]
    warm_up: Duration,
    /// A connection without an answer for so long gives up and tries another node; a leader is
    /// looked for so long at first
    #[arg(long, value_name = "SECS", default_value = "5", value_parser = seconds, help_heading = "Load")]
    timeout: Duration,
    /// Seed of operations, keys, sizes and arrivals: the same seed asks for the same, but that
    /// unique keys are new in each run
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Load")]
    seed: u64,

    /// JSON to FILE, or in place of the table; one line a run
    #[arg(long, value_name = "FILE", num_args = 0..=1, help_heading = "Results")]
    json: Option<Option<PathBuf>>,
    /// A picture: throughput and latency over time; latency against load with --rates
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    svg: Option<PathBuf>,
    /// The distribution of latencies in milliseconds, as HdrHistogram's tools print and read it
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "rates",
        help_heading = "Results"
    )]
    hdr: Option<PathBuf>,
    /// The step of what is reported over time
    #[arg(long, value_name = "SECS", default_value = "1", value_parser = interval, help_heading = "Results")]
    interval: Duration,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Op {
    /// Inserts; a key that exists is an error, so best with unique keys
    Put,
    /// Inserts or overwrites
    Update,
    /// Linearizable reads
    Get,
    /// Removes
    Remove,
    /// Half updates, half gets
    Mixed,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Distribution {
    /// All keys equally often
    Uniform,
    /// The first keys most often
    Zipf,
    /// Each write has a key of its own; gets and removes take one that was written
    Unique,
}

/// What is to be done, checked.
#[derive(Clone, Debug)]
pub struct Plan {
    pub addrs: Vec<SocketAddr>,
    pub pids: Vec<u32>,
    /// The mix, by the name that it was asked for.
    pub op: String,
    pub mix: Mix,
    pub keys: Spec,
    pub value_bytes: ValueBytes,
    pub has_sessions: bool,
    pub connections: u32,
    pub pipeline: u32,
    pub arrivals: Arrivals,
    pub threads: u32,
    pub measured: Duration,
    pub warm_up: Duration,
    pub interval: Duration,
    pub timeout: Duration,
    pub seed: u64,
}

/// With which loads it is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Loads {
    Closed,
    Open(f64),
    /// One run for each rate.
    Sweep(Vec<f64>),
}

/// Where results go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonTarget {
    Stdout,
    File(PathBuf),
}

/// Where results go besides the table.
#[derive(Clone, Debug)]
pub struct Targets {
    pub json: Option<JsonTarget>,
    pub svg: Option<PathBuf>,
    pub hdr: Option<PathBuf>,
}

impl Cli {
    /// # Errors
    /// What is wrong, in one line.
    pub fn checked(self) -> Result<(Plan, Loads, Targets), String> {
        let addrs = self.resolved()?;
        if self.threads > self.connections {
            return Err(format!(
                "--threads {} is more than --connections {}",
                self.threads, self.connections
            ));
        }
        if self.sessions && self.connections as usize > SESSIONS_MAX {
            return Err(format!(
                "a cluster keeps {SESSIONS_MAX} sessions, fewer than --connections {}",
                self.connections
            ));
        }
        if !(0.0..=EXPONENT_MAX).contains(&self.zipf_exponent) {
            return Err(format!("--zipf-exponent is from 0 to {EXPONENT_MAX}"));
        }
        let loads = match (self.rate, self.rates) {
            (Some(rate), _) => Loads::Open(rate),
            (None, rates) if rates.is_empty() => Loads::Closed,
            (None, rates) => Loads::Sweep(rates),
        };
        let keys = match self.distribution {
            Distribution::Uniform => Spec::Uniform { keys: self.keys },
            Distribution::Zipf => Spec::Zipf {
                keys: self.keys,
                exponent: self.zipf_exponent,
            },
            Distribution::Unique => Spec::Unique,
        };
        let (op, mix) = named_mix(self.op, self.mix);
        let plan = Plan {
            addrs,
            pids: self.pids,
            op,
            mix,
            keys,
            value_bytes: self.value_bytes,
            has_sessions: self.sessions,
            connections: self.connections,
            pipeline: self.pipeline,
            arrivals: self.arrivals,
            threads: self.threads,
            measured: self.seconds,
            warm_up: self.warm_up,
            interval: self.interval,
            timeout: self.timeout,
            seed: self.seed,
        };
        let targets = Targets {
            json: self.json.map(|file| match file {
                Some(file) => JsonTarget::File(file),
                None => JsonTarget::Stdout,
            }),
            svg: self.svg,
            hdr: self.hdr,
        };
        Ok((plan, loads, targets))
    }

    /// The nodes of the cluster, which has to be named: a load overwrites keys.
    fn resolved(&self) -> Result<Vec<SocketAddr>, String> {
        if let Some(path) = &self.cluster {
            let cluster = Config::read(path).map_err(|e| e.to_string())?.cluster;
            return Ok(cluster.members().iter().map(|m| m.client).collect());
        }
        if self.addrs.is_empty() {
            return Err(
                "no cluster is named, and a load writes keys into it: give --addr \
                        HOST:PORT or --cluster FILE"
                    .to_owned(),
            );
        }
        let (addrs, mut bad) = resolve(&self.addrs);
        if addrs.is_empty() {
            return Err(bad.swap_remove(0).to_string());
        }
        for error in bad {
            eprintln!("warning: {error}; asking the other addresses");
        }
        Ok(addrs)
    }
}

fn named_mix(op: Op, mix: Option<Mix>) -> (String, Mix) {
    if let Some(mix) = mix {
        return (mix.to_string(), mix);
    }
    let kind = match op {
        Op::Put => OperationType::Put,
        Op::Update => OperationType::Update,
        Op::Get => OperationType::Get,
        Op::Remove => OperationType::Delete,
        Op::Mixed => {
            let halves = "update=1,get=1".parse().expect("it is a mix");
            return ("mixed".to_owned(), halves);
        }
    };
    let mix = Mix::only(kind);
    (mix.to_string(), mix)
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok();
    rate.filter(|rate| *rate > 0.0 && *rate <= RATE_MAX)
        .ok_or_else(|| format!("not a number of operations a second up to {RATE_MAX}"))
}

fn seconds_or_none(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    seconds
        .filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("not a number of seconds up to {SECONDS_MAX}"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    seconds_or_none(text).and_then(|seconds| match seconds {
        Duration::ZERO => Err("it has to be more than nothing".to_owned()),
        seconds => Ok(seconds),
    })
}

fn interval(text: &str) -> Result<Duration, String> {
    seconds(text).and_then(|seconds| {
        if seconds.as_secs_f64() < INTERVAL_SECONDS_MIN {
            return Err(format!("it has to be {INTERVAL_SECONDS_MIN} or more"));
        }
        Ok(seconds)
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(words: &str) -> Result<(Plan, Loads, Targets), String> {
        parse_all(&format!("--addr 127.0.0.1:1 {words}"))
    }

    fn parse_all(words: &str) -> Result<(Plan, Loads, Targets), String> {
        let words = std::iter::once("raft_bench").chain(words.split_whitespace());
        Cli::try_parse_from(words)
            .map_err(|e| e.to_string())?
            .checked()
    }

    #[test]
    fn the_command_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn json_takes_a_file_or_none_wherever_it_stands() {
        let json = |words: &str| parse(words).unwrap().2.json;
        assert_eq!(json(""), None);
        assert_eq!(json("--json --op get"), Some(JsonTarget::Stdout));
        assert_eq!(json("--op get --json"), Some(JsonTarget::Stdout));
        assert_eq!(
            json("--json run.json --op get"),
            Some(JsonTarget::File("run.json".into()))
        );
    }

    #[test]
    fn loads_are_closed_open_or_a_sweep() {
        let loads = |words: &str| parse(words).unwrap().1;
        assert_eq!(loads(""), Loads::Closed);
        assert_eq!(loads("--rate 2.5"), Loads::Open(2.5));
        assert_eq!(loads("--rates 10,20"), Loads::Sweep(vec![10.0, 20.0]));
    }

    #[test]
    fn the_plan_names_operations_as_they_were_asked_for() {
        let op = |words: &str| parse(words).unwrap().0.op;
        assert_eq!(op(""), "update");
        assert_eq!(op("--op mixed"), "mixed");
        assert_eq!(op("--op remove"), "remove");
        assert_eq!(op("--mix get=1,put=2"), "get=1,put=2");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for words in [
            "--rate 0",
            "--rate -1",
            "--rate nan",
            "--rates 10,",
            "--rate 1 --rates 2",
            "--rates 1,2 --hdr x",
            "--seconds 0",
            "--seconds inf",
            "--warm-up -1",
            "--interval 0.001",
            "--connections 0",
            "--pipeline 1001",
            "--threads 3 --connections 2",
            "--sessions --connections 10001",
            "--distribution zipf --zipf-exponent nan",
            "--op get --mix get=1",
            "--mix scan=1",
            "--value-bytes 9-1",
            "--keys 0",
            "--cluster x",
            "stray",
        ] {
            assert!(parse(words).is_err(), "{words}");
        }
        assert!(parse_all("--addr nowhere").is_err());
    }

    #[test]
    fn no_cluster_is_loaded_that_was_not_named() {
        let error = parse_all("--op get").map(drop).unwrap_err();
        assert!(
            error.contains("--addr") && error.contains("--cluster"),
            "{error}"
        );
    }
}
