use super::*;
use crate::accounts::Costs;
use crate::load::Leftover;
use crate::run::Row;
use crate::tally::Tally;

fn plan() -> Plan {
    use clap::Parser;
    let words = "raft_bench --addr 127.0.0.1:1 --mix update=1,get=3".split(' ');
    let cli = crate::args::Cli::try_parse_from(words).unwrap();
    cli.checked().unwrap().0
}

/// A run with a stall in the middle, in which nothing was answered.
fn measured(rate: Option<f64>) -> Measured {
    let rows = (0..5)
        .map(|n| Row {
            begin: f64::from(n),
            end: f64::from(n + 1),
            answered: if n == 2 { 0 } else { 10_000 },
            errors: if n == 3 { 64 } else { 0 },
            latency: (n != 2).then_some(Latency {
                p50: 900.0,
                p99: 4_000.0,
                p999: 9_000.0,
                max: 15_000.0,
            }),
        })
        .collect();
    let mut total = Tally::new();
    total.latency_ns.saturating_record(1_000_000);
    Measured {
        rate,
        seconds: 5.0,
        total,
        rows,
        leftover: Leftover::default(),
        costs: Costs {
            leader_syncs: None,
            servers: Vec::new(),
            own: 0.0,
        },
    }
}

/// The elements in the order in which they begin.
///
/// # Panics
/// If they do not nest, or an attribute is not quoted.
fn elements(svg: &str) -> Vec<String> {
    let mut open = Vec::new();
    let mut seen = Vec::new();
    for tag in svg.split('<').skip(1) {
        let (tag, text) = tag.split_once('>').expect("a tag ends");
        assert!(!text.contains('>'), "an unescaped end of a tag: {text}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "elements nest");
            continue;
        }
        let name = tag.split([' ', '/']).next().expect("a name").to_owned();
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        assert!(!tag.contains("NaN") && !tag.contains("inf"), "{tag}");
        seen.push(name.clone());
        if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?} are open at the end");
    seen
}

/// The words of the picture that a reader sees.
fn texts(svg: &str) -> Vec<&str> {
    let texts = svg.split("<text").skip(1);
    texts
        .map(|rest| {
            let (_, text) = rest.split_once('>').unwrap();
            text.split_once('<').unwrap().0
        })
        .collect()
}

/// The first line of each panel and its dots, without the samples in the legends.
fn blue_lines(svg: &str) -> impl Iterator<Item = &str> {
    let blue = svg
        .lines()
        .filter(|l| l.starts_with("<path class=\"line c0\""));
    blue.filter(|l| !l.contains("<text"))
}

#[test]
fn a_run_over_time_is_a_well_formed_picture_with_units() {
    let svg = over_time(&plan(), &measured(Some(12_000.0)));
    let elements = elements(&svg);
    assert_eq!(elements[..3], ["svg", "title", "style"]);
    let texts = texts(&svg);
    for text in [
        "operations per second",
        "answered",
        "errors",
        "offered",
        "latency",
        "median",
        "99 %",
        "longest",
        "seconds",
        "1 ms",
        "100 ms",
        "10,000",
    ] {
        assert!(texts.contains(&text), "{text} is missing: {texts:?}");
    }
}

#[test]
fn a_stall_breaks_the_line_of_the_latency() {
    let svg = over_time(&plan(), &measured(None));
    assert!(!texts(&svg).contains(&"offered"));
    let breaks: Vec<usize> = blue_lines(&svg).map(|l| l.matches('M').count()).collect();
    // Throughput and its dots, latency and its dots.
    assert_eq!(breaks, [1, 5, 2, 4]);
}

#[test]
fn a_sweep_is_drawn_in_the_order_of_its_rates() {
    let sweep: Vec<Measured> = [4_000.0, 1_000.0, 2_000.0]
        .map(|rate| measured(Some(rate)))
        .into();
    let svg = against_load(&plan(), &sweep);
    elements(&svg);
    let line = blue_lines(&svg).next().unwrap();
    let path = line.split("d=\"").nth(1).unwrap();
    let xs: Vec<f64> = path
        .split(['M', 'L'])
        .skip(1)
        .map(|point| point.split(' ').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(xs.len(), 3);
    assert!(xs.is_sorted(), "{xs:?}");
}

#[test]
fn nothing_measured_is_an_empty_picture_not_a_failure() {
    let mut nothing = measured(None);
    nothing.rows.clear();
    elements(&over_time(&plan(), &nothing));
    elements(&against_load(&plan(), &[]));
}
