//! Records as lines: for `kubectl logs -c istio-proxy`, where a reader expects what a sidecar writes, and for terminals.

use std::fmt::Write;

use policy::Close;
use policy::decide::Reason;
use policy::record::{End, Record};

/// One line of the log of the virtual proxy: the time, the words of a sidecar's access log, then everything known.
pub fn proxy_log(record: &Record) -> String {
    let mut line = format!("{} \"- - -\" 0 - {}", time(record.opened_unix_ms), termination(record));
    let mut field = |name: &str, value: &dyn std::fmt::Display| {
        let _infallible = write!(line, " {name}={value}");
    };
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
    field("close", &or_dash(record.close.map(Close::word)));
    field("generation", &record.outcome.generation);
    field("decision", &record.shown_id());
    if record.count > 1 {
        field("count", &record.count);
    }
    if let Some(nearest) = &record.outcome.nearest {
        field("nearest", &format_args!("{:?}", nearest.to_string()));
    }
    if let Some(trial) = in_trial(record) {
        field("trial", &trial);
    }
    if let Some(http) = &record.outcome.http {
        field("http.carries", &http.carries.word());
        field("http.verdict", &http.verdict.word());
        field("http.by", &format_args!("{:?}", http.by.join(", ")));
    }
    harmless(line)
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
    if let Some(trial) = in_trial(record).filter(|trial| *trial != verdict) {
        let _infallible = write!(line, "; with the trials enforced it would be {trial}");
    }
    // That a refusal was refused, and that both ends finished, goes without saying.
    if let (Some(close), Some(lasted)) = (record.close.filter(|close| *close != Close::Finished), record.duration_us) {
        let _infallible = write!(line, "; {} after {}", close.word(), age(lasted));
    }
    if let Some(http) = &record.outcome.http {
        let _infallible = write!(line, "; {http}");
    }
    if record.count > 1 {
        let _infallible = write!(line, "  ({} times)", record.count);
    }
    let _infallible = write!(line, "  [{}]", record.shown_id());
    harmless(line)
}

/// Policies are text of others: what they bring must neither break a line nor reach a terminal as a command.
fn harmless(line: String) -> String {
    if line.chars().any(char::is_control) {
        return line.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect();
    }
    line
}

/// What it would have been with the trials enforced (S-72), if there are any.
fn in_trial(record: &Record) -> Option<&'static str> {
    record.outcome.if_enforced.map(|permitted| if permitted { "allowed" } else { "denied" })
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

/// Open connections in columns, as kubectl sets them.
pub fn connections(open: &[Record]) -> String {
    let head = ["ID", "AGE", "FROM", "TO", "POLICY", "RULE"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(open.iter().map(connection_cells)).collect();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..6).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("   ");
        let _infallible = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// Everything that a record holds, a line for each thing.
pub fn whole(record: &Record) -> String {
    let mut lines = vec![
        format!("decision    {}", record.shown_id()),
        format!("opened      {}", time(record.opened_unix_ms)),
        format!("verdict     {}", if record.outcome.permitted { "allowed" } else { "denied" }),
        format!("because     {}", record.outcome.because()),
        format!("reason      {}", record.outcome.reason.word()),
        format!(
            "from        {} at {}, identity {}",
            named(&record.source),
            socket(&record.source),
            identity(&record.source)
        ),
        format!(
            "to          {} at {}, identity {}",
            record.destination,
            socket(&record.destination),
            identity(&record.destination)
        ),
        format!("generation  {}", record.outcome.generation),
    ];
    if let Some(trial) = in_trial(record) {
        lines.push(format!("in trial    {trial}, with the trials enforced"));
    }
    if record.count > 1 {
        lines.push(format!("stands for  {} equal connections of one second", record.count));
    }
    let lasted = record.duration_us.map_or_else(|| "-".to_owned(), age);
    match record.close {
        None => lines.push(format!("open for    {lasted}")),
        Some(close) if record.duration_us.is_some() => {
            lines.push(format!("ended       {} after {lasted}", close.word()));
        }
        Some(close) => lines.push(format!("ended       {}", close.word())),
    }
    if let (Some(received), Some(sent)) = (record.bytes_received, record.bytes_sent) {
        lines.push(format!("bytes       {received} to the workload, {sent} back"));
    }
    lines.into_iter().map(harmless).collect::<Vec<_>>().join("\n")
}

fn identity(end: &End) -> String {
    end.identity.as_ref().map_or_else(|| "none".to_owned(), |id| format!("{id} (attested)"))
}

/// One open connection in the columns of the head.
fn connection_cells(record: &Record) -> [String; 6] {
    [
        record.shown_id(),
        record.duration_us.map_or_else(|| "-".to_owned(), age),
        named(&record.source),
        format!("{}:{}", record.destination, record.destination.port),
        or_dash(record.outcome.policy.as_ref()),
        or_dash(record.outcome.rule),
    ]
    .map(harmless)
}

/// An age as kubectl writes it, and milliseconds below a second.
fn age(duration_us: u64) -> String {
    match duration_us / 1_000_000 {
        0 => format!("{}ms", duration_us / 1000),
        seconds => api::time::short_duration(i64::try_from(seconds).unwrap_or(i64::MAX)),
    }
}

fn or_dash<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// The time of day in UTC.
fn clock(unix_ms: u64) -> String {
    shown(unix_ms, "%H:%M:%S.%3f")
}

/// Date and time in UTC, RFC 3339.
fn time(unix_ms: u64) -> String {
    shown(unix_ms, "%Y-%m-%dT%H:%M:%S.%3fZ")
}

/// A time as the format says; a dash if it is beyond every calendar.
fn shown(unix_ms: u64, format: &str) -> String {
    let moment = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    moment.map_or_else(|| "-".to_owned(), |moment| moment.strftime(format).to_string())
}
