//! Records as lines: for `kubectl logs -c istio-proxy`, where a reader expects what a sidecar writes, and for terminals.

use std::fmt::Write;

use policy::decide::Reason;
use policy::record::{End, Record};

/// One line of the log of the virtual proxy: the time, the words of a sidecar's access log, then everything known.
pub fn proxy_log(record: &Record) -> String {
    let mut line = format!("{} \"- - -\" 0 - {}", time(record.opened_unix_ms), termination(record));
    let mut field = |name: &str, value: &dyn std::fmt::Display| drop(write!(line, " {name}={value}"));
    field("verdict", &if record.outcome.permitted { "allowed" } else { "denied" });
    field("src.addr", &socket(&record.source));
    field("src.workload", &or_dash(record.source.workload.as_ref()));
    field("src.identity", &or_dash(record.source.identity.as_ref()));
    field("dst.addr", &socket(&record.destination));
    field("dst.workload", &or_dash(record.destination.workload.as_ref()));
    field("policy", &or_dash(record.outcome.policy.as_ref()));
    field("rule", &or_dash(record.outcome.rule));
    field("reason", &record.outcome.reason.word());
    field("bytes_recv", &or_dash(record.bytes_received));
    field("bytes_sent", &or_dash(record.bytes_sent));
    field("close", &or_dash(record.close.map(policy::Close::word)));
    field("generation", &record.outcome.generation);
    field("decision", &format_args!("{:016x}", record.id));
    if record.count > 1 {
        field("count", &record.count);
    }
    if let Some(nearest) = &record.outcome.nearest {
        field("nearest", &format_args!("\"{nearest}\""));
    }
    line
}

/// One line for a terminal: who, whom, port, verdict, policy, rule and reason, the nearest miss, and where to ask for more.
pub fn tap_line(record: &Record) -> String {
    let verdict = if record.outcome.permitted { "allowed" } else { "denied" };
    let mut line = format!(
        "{} {verdict:<7} {} -> {}:{}  {}",
        clock(record.opened_unix_ms),
        named(&record.source),
        record.destination,
        record.destination.port,
        record.outcome.because(),
    );
    if record.count > 1 {
        drop(write!(line, "  ({} times)", record.count));
    }
    line
}

/// S-95: the words of the sidecar's log for a denial, and a dash where it passed.
fn termination(record: &Record) -> String {
    if record.outcome.permitted {
        return "-".to_owned();
    }
    match (record.outcome.reason, &record.outcome.policy, record.outcome.rule) {
        // S-83: no policy is consulted.
        (Reason::MtlsRequired, ..) => "filter_chain_not_found".to_owned(),
        (_, Some(policy), Some(rule)) => {
            format!("rbac_access_denied_matched_policy[ns[{}]-policy[{}]-rule[{rule}]]", policy.namespace, policy.name)
        }
        _ => "rbac_access_denied_matched_policy[none]".to_owned(),
    }
}

/// The opener as a reader knows it: workload and account, or the bare address.
fn named(end: &End) -> String {
    match (&end.workload, &end.identity) {
        (Some(workload), Some(identity)) => format!("{workload} (account {})", identity.service_account()),
        (Some(workload), None) => format!("{workload} (no identity)"),
        (None, Some(identity)) => format!("{} ({})", end.address, identity.principal()),
        (None, None) => format!("{} (outside the mesh)", end.address),
    }
}

fn socket(end: &End) -> std::net::SocketAddr {
    std::net::SocketAddr::new(end.address, end.port)
}

fn or_dash<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Milliseconds of a day.
const DAY_MS: u64 = 86_400_000;

/// The time of day in UTC.
fn clock(unix_ms: u64) -> String {
    let seconds = unix_ms % DAY_MS / 1000;
    format!("{:02}:{:02}:{:02}.{:03}", seconds / 3600, seconds / 60 % 60, seconds % 60, unix_ms % 1000)
}

/// Date and time in UTC, RFC 3339.
fn time(unix_ms: u64) -> String {
    let (year, month, day) = date(unix_ms / DAY_MS);
    format!("{year:04}-{month:02}-{day:02}T{}Z", clock(unix_ms))
}

/// Year, month and day from days since 1970: years are counted from March, so that a leap day is the last day of one.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}
