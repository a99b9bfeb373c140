//! Results in words, as JSON, and as HdrHistogram's table.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde_json::json;

use crate::args::Plan;
use crate::keys::Spec;
use crate::run::{Latency, Measured, Row};
use crate::schedule::Arrivals;
use crate::tally::Tally;
use crate::workload::ValueBytes;

/// Quantile steps of the table for each halving of what is left to 100 %.
const HDR_STEPS: u32 = 5;

/// The pace of a run, in words.
pub fn pace(rate: Option<f64>) -> String {
    match rate {
        Some(rate) => format!("open loop, {}/s", grouped(rate)),
        None => "closed loop".to_owned(),
    }
}

/// On what the operations are done, and by how many.
pub fn setting(plan: &Plan) -> String {
    let keys = match plan.keys {
        Spec::Uniform { keys } => format!("{} keys", grouped(keys as f64)),
        Spec::Zipf { keys, exponent } => format!("{} keys zipf {exponent}", grouped(keys as f64)),
        Spec::Unique => "unique keys".to_owned(),
    };
    let (sessions, arrivals) = (
        if plan.has_sessions {
            " with sessions"
        } else {
            ""
        },
        if plan.arrivals == Arrivals::Poisson {
            ", poisson arrivals"
        } else {
            ""
        },
    );
    format!(
        "{} connections{sessions}, pipeline {}, {keys}, values of {} bytes{arrivals}",
        plan.connections, plan.pipeline, plan.value_bytes
    )
}

/// The results of one run, on several lines.
pub fn text(plan: &Plan, measured: &Measured) -> String {
    let total = &measured.total;
    let mut out = format!("{}, {}\n{}", plan.op, pace(measured.rate), setting(plan));
    let mut line = |name: &str, value: String| {
        let _ = write!(out, "\n  {name:<16}{value}");
    };
    line(
        "throughput",
        format!(
            "{}/s, {} answered in {} s",
            grouped(measured.per_second()),
            grouped(total.answered() as f64),
            measured.seconds
        ),
    );
    if total.answered() > 0 {
        line("latency µs", latencies(total));
    }
    line("errors", errors(total));
    if total.connects_failed > 0 {
        line("failed connects", grouped(total.connects_failed as f64));
    }
    if total.not_found > 0 {
        line("keys not found", grouped(total.not_found as f64));
    }
    if measured.rate.is_some() {
        line("unanswered", unanswered(measured));
    }
    if let Some(syncs) = measured.costs.leader_syncs.filter(|syncs| *syncs > 0) {
        let shared = total.answered() as f64 / syncs as f64;
        line(
            "leader's syncs",
            format!("{} operations each", tenths(shared)),
        );
    }
    line("CPU µs each", costs(measured));
    out
}

fn latencies(total: &Tally) -> String {
    let quantiles = [
        ("p50", 0.5),
        ("p90", 0.9),
        ("p99", 0.99),
        ("p99.9", 0.999),
        ("max", 1.0),
    ];
    let texts = quantiles.map(|(name, quantile)| {
        let micros = grouped(total.micros(quantile));
        format!("{name} {micros}")
    });
    texts.join("  ")
}

fn errors(total: &Tally) -> String {
    let by_kind = total
        .errors_by_kind()
        .map(|(kind, count)| format!("{} {}", kind.name(), grouped(count as f64)));
    let by_kind: Vec<String> = by_kind.collect();
    if by_kind.is_empty() {
        return "none".to_owned();
    }
    format!("{}: {}", grouped(total.errors() as f64), by_kind.join(", "))
}

fn unanswered(measured: &Measured) -> String {
    let left = measured.leftover;
    if measured.unanswered() == 0 {
        return "none".to_owned();
    }
    format!(
        "{} at the end ({} in flight, {} not sent), the oldest due {} µs ago",
        grouped(measured.unanswered() as f64),
        grouped(left.in_flight as f64),
        grouped(left.not_sent as f64),
        grouped(left.oldest_ns as f64 / 1e3)
    )
}

fn costs(measured: &Measured) -> String {
    let servers = &measured.costs.servers;
    let own = tenths(measured.cost(measured.costs.own));
    match servers.first() {
        Some(leader) => format!(
            "leader {}  servers {}  generator {own}",
            tenths(measured.cost(*leader)),
            tenths(measured.cost(measured.costs.all_servers()))
        ),
        None => format!("generator {own}"),
    }
}

/// The head of the table of a sweep.
pub fn sweep_head(plan: &Plan) -> String {
    format!(
        "{}, latency against load\n{}\n{:>10} {:>11} {:>10} {:>10} {:>10} {:>10} {:>8} {:>11}  {}",
        plan.op,
        setting(plan),
        "rate/s",
        "answered/s",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
        "max µs",
        "errors",
        "unanswered",
        "CPU µs each"
    )
}

/// A step of a sweep, in one line.
pub fn sweep_line(measured: &Measured) -> String {
    let total = &measured.total;
    let micros = |quantile| grouped(total.micros(quantile));
    format!(
        "{:>10} {:>11} {:>10} {:>10} {:>10} {:>10} {:>8} {:>11}  {}",
        measured.rate.map_or(String::new(), grouped),
        grouped(measured.per_second()),
        micros(0.5),
        micros(0.99),
        micros(0.999),
        micros(1.0),
        grouped(total.errors() as f64),
        grouped(measured.unanswered() as f64),
        costs(measured),
    )
}

/// The results of one run, in one line. Those over time are columns, an array each.
pub fn json(plan: &Plan, measured: &Measured) -> String {
    let total = &measured.total;
    // Without processes to look at nothing is known of what they cost.
    let leader = measured
        .costs
        .servers
        .first()
        .map(|seconds| measured.cost(*seconds));
    let (distribution, keys, exponent) = match plan.keys {
        Spec::Uniform { keys } => ("uniform", Some(keys), None),
        Spec::Zipf { keys, exponent } => ("zipf", Some(keys), Some(exponent)),
        Spec::Unique => ("unique", None, None),
    };
    let value_bytes = match &plan.value_bytes {
        ValueBytes::Fixed(bytes) => json!(bytes),
        mixed => json!(mixed.to_string()),
    };
    let by_kind: serde_json::Map<String, serde_json::Value> = total
        .errors_by_kind()
        .map(|(kind, count)| (kind.name().replace(' ', "_"), json!(count)))
        .collect();
    json!({
        "op": plan.op,
        "mix": plan.mix.to_string(),
        "connections": plan.connections,
        "pipeline": plan.pipeline,
        "threads": plan.threads,
        "sessions": plan.has_sessions,
        "value_bytes": value_bytes,
        "distribution": distribution,
        "keys": keys,
        "zipf_exponent": exponent,
        "seed": plan.seed,
        "loop": if measured.rate.is_some() { "open" } else { "closed" },
        "rate": measured.rate,
        "arrivals": measured.rate.map(|_| format!("{:?}", plan.arrivals).to_lowercase()),
        "warm_up_seconds": plan.warm_up.as_secs_f64(),
        "seconds": measured.seconds,
        "operations": total.answered(),
        "per_second": measured.per_second(),
        "mean_us": total.latency_ns.mean() / 1e3,
        "p50_us": total.micros(0.5),
        "p90_us": total.micros(0.9),
        "p99_us": total.micros(0.99),
        "p999_us": total.micros(0.999),
        "p9999_us": total.micros(0.9999),
        "max_us": total.micros(1.0),
        "not_found": total.not_found,
        "errors": total.errors(),
        "errors_by_kind": by_kind,
        "connects_failed": total.connects_failed,
        "unanswered": measured.unanswered(),
        "unanswered_in_flight": measured.leftover.in_flight,
        "unanswered_not_sent": measured.leftover.not_sent,
        "unanswered_oldest_us": measured.leftover.oldest_ns as f64 / 1e3,
        "leader_syncs": measured.costs.leader_syncs,
        "leader_cpu_us": leader,
        "servers_cpu_us": leader.map(|_| measured.cost(measured.costs.all_servers())),
        "generator_cpu_us": measured.cost(measured.costs.own),
        "series": series(&measured.rows),
    })
    .to_string()
}

fn series(rows: &[Row]) -> serde_json::Value {
    let latency = |of: fn(&Latency) -> f64| -> Vec<Option<f64>> {
        rows.iter()
            .map(|row| row.latency.as_ref().map(of))
            .collect()
    };
    json!({
        "end_seconds": rows.iter().map(|row| row.end).collect::<Vec<_>>(),
        "operations": rows.iter().map(|row| row.answered).collect::<Vec<_>>(),
        "per_second": rows.iter().map(|row| row.per_second(row.answered)).collect::<Vec<_>>(),
        "errors": rows.iter().map(|row| row.errors).collect::<Vec<_>>(),
        "p50_us": latency(|l| l.p50),
        "p99_us": latency(|l| l.p99),
        "p999_us": latency(|l| l.p999),
        "max_us": latency(|l| l.max),
    })
}

/// The distribution as HdrHistogram prints it, in milliseconds: for its plotters, and for
/// comparing with other tools.
///
/// # Errors
/// What the writer says.
pub fn write_hdr(out: &mut impl Write, total: &Tally) -> io::Result<()> {
    const NANOS: f64 = 1e6;
    let latency_ns = &total.latency_ns;
    writeln!(
        out,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    )?;
    let mut count = 0;
    for step in latency_ns.iter_quantiles(HDR_STEPS) {
        let value = step.value_iterated_to() as f64 / NANOS;
        let quantile = step.quantile_iterated_to();
        count += step.count_since_last_iteration();
        write!(out, "{value:>12.3} {quantile:>2.12} {count:>10}")?;
        if quantile < 1.0 {
            write!(out, " {:>14.2}", 1.0 / (1.0 - quantile))?;
        }
        writeln!(out)?;
    }
    writeln!(
        out,
        "#[Mean    = {:>12.3}, StdDeviation   = {:>12.3}]",
        latency_ns.mean() / NANOS,
        latency_ns.stdev() / NANOS
    )?;
    writeln!(
        out,
        "#[Max     = {:>12.3}, Total count    = {:>12}]",
        latency_ns.max() as f64 / NANOS,
        latency_ns.len()
    )?;
    writeln!(
        out,
        "#[Buckets = {:>12}, SubBuckets     = {:>12}]",
        latency_ns.buckets(),
        latency_ns.distinct_values()
    )
}

/// Rounded, with a comma every three digits.
pub fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn tenths(number: f64) -> String {
    format!("{number:.1}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_from_the_right() {
        for (number, text) in [
            (0.0, "0"),
            (999.4, "999"),
            (1_000.0, "1,000"),
            (1_234_567.8, "1,234,568"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn the_percentile_table_counts_up_to_all_of_them() {
        let mut tally = Tally::new();
        for micros in 1..=1_000 {
            tally.latency_ns.saturating_record(micros * 1_000);
        }
        let mut out = Vec::new();
        write_hdr(&mut out, &tally).unwrap();
        let text = String::from_utf8(out).unwrap();
        let rows: Vec<Vec<&str>> = text
            .lines()
            .skip(2)
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().collect())
            .collect();
        let last = rows.last().unwrap();
        assert_eq!(last[1..], ["1.000000000000", "1000"]);
        let counts: Vec<u64> = rows.iter().map(|row| row[2].parse().unwrap()).collect();
        assert!(counts.is_sorted(), "{counts:?}");
        assert!(text.contains("Total count    =         1000]"), "{text}");
    }
}
