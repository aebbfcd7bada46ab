//! Markdown: tables of rows, and how figures are written.

use tidegate_bench::report::Failures;
use tidegate_bench::stats::{Estimate, estimate, median};

use crate::rows::{Load, Metric, RAW, Row};
use crate::sample::{Sample, Samples};

/// Prints a line of a table.
pub(crate) fn line(cells: &[String]) {
    println!("| {} |", cells.join(" | "));
}

/// Prints a table's head.
pub(crate) fn head(cells: &[&str]) {
    line(&cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>());
    println!("|{}", "---|".repeat(cells.len()));
}

/// A figure with three digits that count.
pub(crate) fn figure(value: f64) -> String {
    // No minus before a zero.
    let value = value + 0.0;
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 => 2,
        _ => 3,
    };
    if value.is_finite() { format!("{value:.digits$}") } else { "-".to_owned() }
}

/// A median with its interval, or a dash.
pub(crate) fn with_interval(found: Option<Estimate>) -> String {
    match found {
        None => "-".to_owned(),
        Some(Estimate { median, interval: None, .. }) => format!("{} [-]", figure(median)),
        Some(Estimate { median, interval: Some((low, high)), .. }) => {
            format!("{} [{}, {}]", figure(median), figure(low), figure(high))
        }
    }
}

/// One table for each metric.
pub(crate) fn print(rows: &[Row], metrics: &[Metric], samples: &Samples) {
    for metric in metrics {
        let of = |row: &str| samples.get(&(metric.name, row.to_owned())).map_or(&[][..], Vec::as_slice);
        println!("\n### {}: {}\n", metric.name, metric.title);
        let is_bulk = matches!(metric.load, Load::Up(_) | Load::Down(_));
        let (rate, cpu) = if is_bulk { ("Gbit/s", "CPU ms/GiB") } else { ("per second", "CPU us each") };
        let mut names = vec!["row", rate, "ratio to raw [95 %]"];
        match metric.load {
            Load::Crr(_) => names.extend(["connect p50 / p99 us", "whole p50 / p99 us"]),
            Load::Rr(_) => names.push("round trip p50 / p99 us"),
            Load::Up(_) | Load::Down(_) => {}
        }
        names.extend([cpu, "less raw's [95 %]", "failed", "others / stolen"]);
        head(&names);
        for row in rows {
            let (own, raw) = (of(&row.name), of(RAW));
            line(&cells(metric, row, own, raw));
        }
    }
}

fn cells(metric: &Metric, row: &Row, own: &[Sample], raw: &[Sample]) -> Vec<String> {
    let middle = |pick: fn(&Sample) -> f64| median(&own.iter().map(pick).collect::<Vec<_>>()).unwrap_or(f64::NAN);
    let pair = |one: fn(&Sample) -> f64, other: fn(&Sample) -> f64| {
        format!("{} / {}", figure(middle(one)), figure(middle(other)))
    };
    let paired = |with: fn(&Sample, &Sample) -> f64| {
        let pairs = own.iter().zip(raw).map(|(own, raw)| with(own, raw));
        with_interval(estimate(&pairs.collect::<Vec<_>>()))
    };
    let is_raw = row.name == RAW;
    let beside_raw = |with| if is_raw { String::new() } else { paired(with) };
    let mut cells = vec![row.name.clone(), figure(middle(|one| one.rate)), beside_raw(|own, raw| own.rate / raw.rate)];
    let connect = || pair(|one| one.connect.p50_us, |one| one.connect.p99_us);
    let whole = || pair(|one| one.whole.p50_us, |one| one.whole.p99_us);
    match metric.load {
        Load::Crr(_) => cells.extend([connect(), whole()]),
        Load::Rr(_) => cells.push(whole()),
        Load::Up(_) | Load::Down(_) => {}
    }
    cells.extend([figure(middle(|one| one.cpu)), beside_raw(|own, raw| own.cpu - raw.cpu)]);
    cells.push(failed(own));
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    cells.push(format!("{} / {}", percent(middle(|one| one.others)), percent(middle(|one| one.stolen))));
    cells
}

/// All failures of a row, by why.
fn failed(samples: &[Sample]) -> String {
    let mut sum = Failures::default();
    for sample in samples {
        sum.add(&sample.failures);
    }
    let Failures { refused, reset, no_port, bytes, timed_out, other } = sum;
    let named = [
        ("refused", refused),
        ("reset", reset),
        ("no port", no_port),
        ("bytes differ", bytes),
        ("timed out", timed_out),
        ("other", other),
    ];
    let told: Vec<String> =
        named.iter().filter(|(_, count)| *count > 0).map(|(why, count)| format!("{count} {why}")).collect();
    if told.is_empty() { "0".to_owned() } else { told.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::{figure, with_interval};
    use tidegate_bench::stats::estimate;

    #[test]
    fn figures_have_the_digits_that_count() {
        let table = [
            (12345.6, "12346"),
            (12.34, "12.3"),
            (0.956, "0.96"),
            (0.0123, "0.012"),
            (-3.45, "-3.45"),
            (-0.0, "0.000"),
            (f64::NAN, "-"),
        ];
        for (value, wanted) in table {
            assert_eq!(figure(value), wanted);
        }
        assert_eq!(with_interval(estimate(&[1.0, 2.0])), "1.50 [-]");
        assert_eq!(with_interval(estimate(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])), "3.50 [1.00, 6.00]");
    }
}
