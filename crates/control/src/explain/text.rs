//! An explanation for people: the verdict first, then what led to it.

use std::fmt::Write;

use policy::ask::{Unknown, Verdict};
use policy::compile::Effect;
use policy::explain::{FieldTrace, LeftOut, RuleTrace};
use policy::port::Carries;
use policy::spec::Action;

use super::{Ends, PolicyReport, Proposal, Report};

/// Everything, for one profile after the other; of several, what differs stands side by side before.
pub fn text(ends: &Ends, reports: &[Report]) -> String {
    let mut out = String::new();
    for report in reports {
        let profile = if reports.len() > 1 { format!("{}: ", report.profile.word()) } else { String::new() };
        let _infallible = writeln!(out, "{profile}{}", sentence(ends, report));
    }
    if reports.len() > 1 {
        side_by_side(reports, &mut out);
    }
    for report in reports {
        one(report, &mut out);
    }
    harmless(&out)
}

/// The verdict in one sentence.
pub fn sentence(ends: &Ends, report: &Report) -> String {
    let what = format!("{} to port {} of {}", ends.from, ends.question.port, ends.to);
    let because = report.answer.telling().explanation.outcome().because();
    match &report.answer.verdict {
        Verdict::Allow => format!("ALLOWED: {what}: {because}"),
        Verdict::Deny => format!("DENIED: {what}: {because}"),
        Verdict::Depends(on) => {
            let words: Vec<String> = on.iter().map(ToString::to_string).collect();
            let hints: Vec<&str> = on.iter().filter_map(hint).collect();
            let hints = if hints.is_empty() { String::new() } else { format!("; {}", hints.join("; ")) };
            format!("DEPENDS: {what}: it depends on {}{hints}", words.join(" and on "))
        }
    }
}

fn hint(on: &Unknown) -> Option<&'static str> {
    match on {
        Unknown::SourceAddress => Some("give --from-address"),
        Unknown::DestinationAddress => Some("give --to-address"),
        Unknown::Request(_) | Unknown::Protocol | Unknown::Authorizer(_) => None,
    }
}

fn one(report: &Report, out: &mut String) {
    let _infallible = writeln!(out, "\nprofile {}; {}", report.profile.word(), port(report));
    for note in &report.notes {
        let _infallible = writeln!(out, "note: {note}");
    }
    if report.policies.is_empty() {
        let _infallible = writeln!(out, "\nno policy applies to this workload");
    }
    for (index, policy) in report.policies.iter().enumerate() {
        let _infallible = writeln!(out);
        policy_lines(index + 1, policy, out);
    }
    if let Some(nearest) = &report.answer.telling().explanation.nearest {
        let _infallible = writeln!(out, "\nnearest miss: {nearest}, in `{}`", nearest.field);
    }
    edit("allows", report.allows.as_ref(), out);
    edit("denies", report.denies.as_ref(), out);
}

fn edit(what: &str, proposal: Option<&Proposal>, out: &mut String) {
    if let Some(Proposal { says, diff }) = proposal {
        let _infallible = write!(out, "\nthe smallest edit that {what} it (tried): {says}\n{diff}");
    }
}

/// What the port carries, and what that means.
fn port(report: &Report) -> String {
    let class = &report.answer.class;
    let by = match (&class.service, &class.said) {
        (Some(service), Some(said)) => format!(" (service `{service}`, {said})"),
        (Some(service), None) => format!(" (service `{service}` does not name a protocol)"),
        (None, _) => String::new(),
    };
    let enforced = match &report.answer.tcp.verdict {
        Verdict::Allow => "allows it",
        Verdict::Deny => "denies it",
        Verdict::Depends(_) => "denies what it cannot know",
    };
    match class.carries {
        Carries::Tcp => format!("the port carries TCP{by}"),
        Carries::Http => format!("the port carries HTTP{by}; Tidegate enforces it as TCP and {enforced}"),
        Carries::Detected if class.service.is_none() => {
            format!("no service has this port: HTTP if the first bytes are; Tidegate enforces it as TCP and {enforced}")
        }
        Carries::Detected => {
            format!("the port carries HTTP if the first bytes are{by}; Tidegate enforces it as TCP and {enforced}")
        }
    }
}

fn policy_lines(number: usize, policy: &PolicyReport, out: &mut String) {
    let place = policy.place.as_ref().map(|(name, line)| format!(" ({name}:{line})")).unwrap_or_default();
    let trial = if policy.trial { ", a trial" } else { "" };
    let _infallible = writeln!(out, "{number}. {}{trial} {}{place}", policy.action.word(), policy.id);
    let _infallible = writeln!(out, "   {}", policy.sentence);
    if let Some(refused) = &policy.refused {
        let _infallible =
            writeln!(out, "   an API server refuses it ({refused}); this is what it would mean if it were stored");
    }
    if !policy.reached {
        let _infallible = writeln!(out, "   not looked at: what comes before has decided");
    }
    for rule in &policy.rules {
        rule_lines(policy.action, rule, out);
    }
}

fn rule_lines(action: Action, rule: &RuleTrace, out: &mut String) {
    let effect = effect(&rule.effect).map(|words| format!(" ({words})")).unwrap_or_default();
    let _infallible = writeln!(out, "   rule {}: {}{effect}", rule.rule, matched(rule.matched));
    for field in &rule.fields {
        let _infallible = writeln!(out, "     {}: {}", field.field, field_words(action, rule, field));
    }
}

fn matched(matched: Option<bool>) -> &'static str {
    match matched {
        Some(true) => "matches",
        Some(false) => "does not match",
        None => "not known",
    }
}

fn effect(effect: &Effect) -> Option<String> {
    match effect {
        Effect::Effective => None,
        Effect::Widened(dropped) => Some(format!("wider than written: {} dropped", names(dropped))),
        Effect::Void(by) => Some(format!("void: never matches TCP, because of `{by}`")),
        Effect::Dead(dropped) => Some(format!("dead: nothing is left of it without {}", names(dropped))),
    }
}

fn names(all: &[std::sync::Arc<str>]) -> String {
    all.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn field_words(action: Action, rule: &RuleTrace, field: &FieldTrace) -> String {
    let compared = format!("wants {}, found {}: {}", field.wanted, field.found, matched(field.matched));
    match (field.left_out, field.matched) {
        (None, _) => compared,
        (Some(LeftOut::Unreadable), Some(_)) => format!("{compared} (values that cannot be read are left out)"),
        (Some(why), _) => {
            let why = match why {
                LeftOut::HttpOnly => "this profile has it for HTTP only",
                LeftOut::Ignored => "this profile ignores it",
                LeftOut::UnknownKey => "nobody knows this key",
                LeftOut::Unreadable => "no value can be read",
            };
            let so = match (&rule.effect, action) {
                (Effect::Void(_), _) => "so the rule never matches TCP",
                (Effect::Dead(_), _) => "so nothing is left of this entry, which then matches nothing",
                (Effect::Effective | Effect::Widened(_), _) => "dropped, so the rule matches more than is written",
            };
            format!("wants {}: {why}; {so}", field.wanted)
        }
    }
}

/// One line a rule, one column a profile.
fn side_by_side(reports: &[Report], out: &mut String) {
    let mut rows: Vec<String> = Vec::new();
    for rule in reports.iter().flat_map(|report| &report.policies).flat_map(|policy| &policy.rules) {
        let name = format!("{} rule {}", rule.policy, rule.rule);
        if !rows.contains(&name) {
            rows.push(name);
        }
    }
    let width = rows.iter().map(|row| row.chars().count()).max().unwrap_or_default();
    let mut table: Vec<Vec<String>> = vec![vec![String::new()]];
    table.extend(rows.iter().map(|row| vec![row.clone()]));
    for report in reports {
        for (line, row) in table.iter_mut().zip(std::iter::once(None).chain(rows.iter().map(Some))) {
            line.push(row.map_or_else(|| report.profile.word().to_owned(), |row| cell(report, row)));
        }
    }
    let column = table.iter().flat_map(|line| line.iter().skip(1)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    if rows.is_empty() {
        return;
    }
    let _infallible = writeln!(out);
    for line in table {
        let mut cells = line.iter();
        let first = cells.next().cloned().unwrap_or_default();
        let rest: Vec<String> = cells.map(|cell| format!("{cell:<column$}")).collect();
        let text = format!("{first:<width$}  {}", rest.join("  "));
        let _infallible = writeln!(out, "{}", text.trim_end());
    }
}

fn cell(report: &Report, row: &str) -> String {
    let rules = report.policies.iter().flat_map(|policy| &policy.rules);
    let found = rules.into_iter().find(|rule| format!("{} rule {}", rule.policy, rule.rule) == row);
    found.map_or_else(
        || "not looked at".to_owned(),
        |rule| {
            let effect = match &rule.effect {
                Effect::Effective => "",
                Effect::Widened(_) => ", widened",
                Effect::Void(_) => ", void",
                Effect::Dead(_) => ", dead",
            };
            format!("{}{effect}", matched(rule.matched))
        },
    )
}

/// Manifests are text of others: what they bring must not reach a terminal as a command.
fn harmless(text: &str) -> String {
    let safe = |letter: char| if letter.is_control() && !matches!(letter, '\n' | '\t') { '?' } else { letter };
    text.chars().map(safe).collect()
}
