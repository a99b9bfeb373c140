//! Holds the pool against mimalloc and glibc's malloc, and prints Markdown:
//!
//! ```sh
//! cargo bench --bench pool_compare                     # everything, about two minutes
//! cargo bench --bench pool_compare -- speed buffers    # some of: speed buffers fragmentation idle
//! cargo bench --bench pool_compare -- --rounds 21 speed
//! ```
//!
//! Times come from rounds in which each allocator has its turn, so that what else the
//! machine does hits all of them alike; tables show medians, and the median of the
//! ratios of single rounds. Memory is that of a process for each allocator.
//!
//! `-- --loop NAME HEAP SECONDS` does nothing but one of them, for a profiler.

mod buffers;
mod footprint;
mod heaps;
mod speed;

use std::process::Command;
use std::time::{Duration, Instant};

use buffers::{PoolBuffer, Vector, passed_on};
use footprint::Mix;
use heaps::{Glibc, Heap, Mimalloc, Pooled, Switch};
use speed::{Sizes, Touch};

#[global_allocator]
static GLOBAL: Switch = Switch;

const ROUNDS: usize = 31;

/// A small generator, so that runs repeat.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// One row: what is done, by each allocator; nanoseconds an operation.
struct Pattern {
    name: String,
    run: [fn(&Pattern) -> f64; 3],
    sizes: Sizes,
    touch: Touch,
    count: usize,
}

macro_rules! pattern {
    ($name:expr, $sizes:expr, $touch:expr, $count:expr, $run:ident $(, $argument:expr)*) => {
        Pattern {
            name: format!("{} {}{}", $name, $sizes.name(), touched($touch)),
            run: [
                |p| pattern!(@call Pooled, p, $run $(, $argument)*),
                |p| pattern!(@call Mimalloc, p, $run $(, $argument)*),
                |p| pattern!(@call Glibc, p, $run $(, $argument)*),
            ],
            sizes: $sizes,
            touch: $touch,
            count: $count,
        }
    };
    (@call $heap:ident, $p:ident, $run:ident, $argument:expr) => {
        speed::$run::<$heap>($p.sizes, $argument, $p.count)
    };
    (@call $heap:ident, $p:ident, $run:ident) => {
        speed::$run::<$heap>($p.sizes, $p.touch, $p.count)
    };
}

fn touched(touch: Touch) -> &'static str {
    match touch {
        Touch::Nothing => "",
        Touch::All => ", touched",
    }
}

fn patterns() -> Vec<Pattern> {
    // About a millisecond each, so that most turns end before the thread is put off its core.
    const FEW: usize = 200_000;
    const MANY: usize = 500_000;
    let all = [
        Sizes::One(16),
        Sizes::One(64),
        Sizes::One(256),
        Sizes::One(1024),
        Sizes::Mixed,
    ];
    let mut patterns = Vec::new();
    for sizes in all {
        patterns.push(pattern!("pair", sizes, Touch::Nothing, FEW, pairs));
    }
    patterns.push(pattern!("pair", Sizes::Mixed, Touch::All, FEW, pairs));
    for sizes in [Sizes::One(64), Sizes::Mixed] {
        patterns.push(pattern!(
            "stack of 100,",
            sizes,
            Touch::Nothing,
            FEW,
            stack,
            100
        ));
        patterns.push(pattern!(
            "stack of 10,000,",
            sizes,
            Touch::Nothing,
            FEW,
            stack,
            10_000
        ));
        patterns.push(pattern!(
            "window of 1,000,",
            sizes,
            Touch::Nothing,
            FEW,
            window,
            1_000
        ));
    }
    for touch in [Touch::Nothing, Touch::All] {
        for sizes in all {
            patterns.push(pattern!("handed over", sizes, touch, MANY, handed_over));
        }
    }
    for sizes in [Sizes::One(64), Sizes::Mixed] {
        patterns.push(pattern!("through a queue", sizes, Touch::All, MANY, queued));
    }
    patterns
}

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (rounds, sections) = match words[..] {
        ["--child", section, heap] => return child(section, heap),
        ["--loop", name, heap, seconds] => return endless(name, heap, seconds),
        ["--rounds", rounds, ref rest @ ..] => (rounds.parse().expect("a number"), rest),
        ref rest => (ROUNDS, rest),
    };
    let wanted = |section: &str| sections.is_empty() || sections.contains(&section);
    if wanted("speed") {
        speed_table(rounds);
    }
    if wanted("buffers") {
        buffers_table(rounds);
    }
    if wanted("fragmentation") {
        println!(
            "| sizes | | live MiB | held / live by the process: at the end / at most | by its own account |"
        );
        println!("|---|---|---|---|---|");
        in_children(&["fragmentation-even", "fragmentation-skewed"]);
    }
    if wanted("idle") {
        println!("| MiB held | full | all freed | a second later | trimmed |");
        println!("|---|---|---|---|---|");
        in_children(&["idle"]);
    }
}

fn speed_table(rounds: usize) {
    println!("| ns a block | pool | mimalloc | glibc | pool/mimalloc | pool/glibc |");
    println!("|---|---|---|---|---|---|");
    for pattern in &patterns() {
        let times = interleaved(rounds, &pattern.run.map(|run| move || run(pattern)));
        let [pool, mimalloc, glibc] = [0, 1, 2].map(|heap| median(times[heap].clone()));
        println!(
            "| {} | {pool:.1} | {mimalloc:.1} | {glibc:.1} | {:.2} | {:.2} |",
            pattern.name,
            ratio(&times[0], &times[1]),
            ratio(&times[0], &times[2]),
        );
    }
    let alone = (0..rounds).map(|_| speed::queue_alone(500_000)).collect();
    println!(
        "| the queue without blocks | {:.1} | | | | |\n",
        median(alone)
    );
}

fn buffers_table(rounds: usize) {
    const COUNT: usize = 100_000;
    type Run = fn(usize, usize) -> f64;
    let columns: [(String, Run); 5] = [
        column::<PoolBuffer<Pooled>>(),
        column::<PoolBuffer<Glibc>>(),
        column::<PoolBuffer<Mimalloc>>(),
        column::<Vector<Mimalloc>>(),
        column::<Vector<Glibc>>(),
    ];
    let names: Vec<&str> = columns.iter().map(|column| column.0.as_str()).collect();
    println!("| ns a buffer | {} |", names.join(" | "));
    println!("|---{}|", "|---".repeat(columns.len()));
    for bytes in [64, 256, 1024, 16 << 10] {
        let times = interleaved(
            rounds,
            &columns.each_ref().map(|column| || column.1(bytes, COUNT)),
        );
        let cells: Vec<String> = times
            .into_iter()
            .map(|t| format!("{:.1}", median(t)))
            .collect();
        println!("| {bytes} B | {} |", cells.join(" | "));
    }
    println!();
}

fn column<F: buffers::Filled>() -> (String, fn(usize, usize) -> f64) {
    (F::name(), passed_on::<F>)
}

/// The figures of each of `runs`, which have their turns one after the other in each round.
fn interleaved<const N: usize>(rounds: usize, runs: &[impl Fn() -> f64; N]) -> [Vec<f64>; N] {
    let mut times = [const { Vec::new() }; N];
    // The first round only warms up.
    for round in 0..=rounds {
        for (index, run) in runs.iter().enumerate() {
            let time = run();
            if round > 0 {
                times[index].push(time);
            }
        }
    }
    times
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median of what `ours` is of `theirs` in the same round.
fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    median(ours.iter().zip(theirs).map(|(a, b)| a / b).collect())
}

fn in_children(sections: &[&str]) {
    let own = std::env::current_exe().expect("the program has a path");
    for section in sections {
        for heap in [Pooled::NAME, Mimalloc::NAME, Glibc::NAME] {
            let child = Command::new(&own).args(["--child", section, heap]).status();
            assert!(
                child.expect("the child starts").success(),
                "{section} {heap}"
            );
        }
    }
    println!();
}

fn child(section: &str, heap: &str) {
    match heap {
        Pooled::NAME => child_with::<Pooled>(section),
        Mimalloc::NAME => child_with::<Mimalloc>(section),
        Glibc::NAME => child_with::<Glibc>(section),
        other => panic!("no such allocator: {other}"),
    }
}

fn child_with<H: Heap>(section: &str) {
    match section {
        "fragmentation-even" => footprint::fragmentation::<H>(Mix::Even),
        "fragmentation-skewed" => footprint::fragmentation::<H>(Mix::Skewed),
        "idle" => footprint::idle::<H>(),
        other => panic!("no such section: {other}"),
    }
}

fn endless(name: &str, heap: &str, seconds: &str) {
    let seconds = seconds.parse().map(Duration::from_secs_f64);
    let seconds = seconds.expect("seconds");
    let all = patterns();
    let pattern = all.iter().find(|pattern| pattern.name == name);
    let pattern = pattern.unwrap_or_else(|| {
        let names: Vec<&str> = all.iter().map(|pattern| pattern.name.as_str()).collect();
        panic!("one of: {}", names.join("; "))
    });
    let heaps = [Pooled::NAME, Mimalloc::NAME, Glibc::NAME];
    let index = heaps.iter().position(|known| *known == heap);
    let run = pattern.run[index.expect("pool, mimalloc or glibc")];
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.is_empty() || begin.elapsed() < seconds {
        times.push(run(pattern));
    }
    println!("{:.2} ns", median(times));
}
