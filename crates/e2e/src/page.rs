//! Pages for people whose commands are typed word for word, and compared with what they show below each.
//!
//! A page shows what came back once, cut where that helps a reader: `…` stands for the rest of a line, and on a line of its own for
//! any number of lines. What differs from run to run (times, ids, addresses, names that are made up) may be anything of its kind.

use control::walkthrough::Step;

use crate::mesh::{Kubectl, Mesh, Played};
use crate::verbs::{is_age, of_pod};

/// Ports from here on are taken by the kernel for whoever opens a connection.
const FIRST_PORT_OF_CLIENTS: u16 = 32768;

/// The commands of all console blocks of a text, each with what is shown below it.
///
/// # Panics
/// If a block does not begin with a command.
pub fn commands(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in text.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next()) {
        let mut until: Option<String> = None;
        for line in block.lines() {
            let goes_on = until.is_some() || steps.last().is_some_and(is_cut);
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) if !goes_on => {
                    steps.push(Step { command: command.to_owned(), printed: true, output: None });
                    until = here_document(command);
                }
                (_, Some(step)) if goes_on => {
                    step.command.push('\n');
                    step.command.push_str(line);
                    if until.as_deref() == Some(line) {
                        until = None;
                    } else if until.is_none() {
                        until = here_document(line);
                    }
                }
                (_, Some(step)) => {
                    let shown = step.output.get_or_insert_default();
                    shown.push_str(line);
                    shown.push('\n');
                }
                (_, None) => panic!("a block begins with `{line}`, which is no command"),
            }
        }
    }
    steps
}

/// A command that goes on in the next line.
fn is_cut(step: &Step) -> bool {
    step.output.is_none() && step.command.ends_with('\\')
}

/// The line that ends the here document which a line begins.
fn here_document(line: &str) -> Option<String> {
    let (_, word) = line.split_once("<<")?;
    let word: String = word.trim_matches('\'').chars().take_while(char::is_ascii_alphabetic).collect();
    (!word.is_empty()).then_some(word)
}

/// Types the commands into one shell, in a directory that holds the samples; the faults that are found.
///
/// What is shown must come back, without or with what was said on standard error; where nothing is shown the command must succeed.
pub fn faults(mesh: &Mesh, kubectl: &Kubectl, steps: &[Step]) -> Vec<String> {
    let played = mesh.play(kubectl, steps);
    let fault = |(step, got): (&Step, &Played)| {
        let (out, err) = (&got.stdout, &got.stderr);
        let as_shown = match &step.output {
            Some(shown) => [out, &format!("{err}{out}"), &format!("{out}{err}")].iter().any(|got| is_alike(shown, got)),
            None => got.code == 0,
        };
        let shown = step.output.as_deref().unwrap_or("success");
        let (version, command, code) = (&kubectl.version, &step.command, got.code);
        (!as_shown).then(|| format!("kubectl {version}: {command}\nis to say\n{shown}\nand says ({code})\n{err}{out}"))
    };
    steps.iter().zip(&played).filter_map(fault).collect()
}

/// Whether what came back is what is shown.
fn is_alike(shown: &str, got: &str) -> bool {
    let lines = |text: &str| text.lines().map(named).collect::<Vec<_>>();
    lines_fit(&lines(shown), &lines(got))
}

fn lines_fit(shown: &[String], got: &[String]) -> bool {
    match shown.split_first() {
        None => got.is_empty(),
        Some((line, rest)) if line == "…" => {
            (0..=got.len()).any(|from| lines_fit(rest, got.get(from..).unwrap_or(&[])))
        }
        Some((line, rest)) => {
            got.split_first().is_some_and(|(first, others)| fits(line, first) && lines_fit(rest, others))
        }
    }
}

/// Whether the parts of a line stand in the other, in their order, the first at its start and the last at its end.
fn fits(shown: &str, got: &str) -> bool {
    let Some((first, rest)) = shown.split_once('…') else { return shown == got };
    let Some(mut left) = got.strip_prefix(first.trim_end()) else { return false };
    let mut parts: Vec<&str> = rest.split('…').map(str::trim).collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some((_, after)) = left.split_once(part) else { return false };
        left = after;
    }
    left.ends_with(last)
}

/// A line with one blank between words, and names for what differs from run to run.
fn named(line: &str) -> String {
    let words = line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut text = String::new();
    let mut run = String::new();
    for letter in words.chars().chain([' ']) {
        if letter.is_ascii_alphanumeric() || ".:-".contains(letter) {
            run.push(letter);
        } else {
            text.push_str(&name(&run));
            run.clear();
            text.push(letter);
        }
    }
    text.trim_end().to_owned()
}

fn name(run: &str) -> String {
    let inner = run.trim_end_matches(['.', ':']);
    let of_client = |port: &str| port.parse().is_ok_and(|port: u16| port >= FIRST_PORT_OF_CLIENTS);
    let named = if inner.len() == 16 && inner.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        "ID".to_owned()
    } else if inner.len() == 12 && inner.matches(':').count() == 2 && inner.contains('.') {
        "CLOCK".to_owned()
    } else if inner.len() >= 20 && inner.ends_with('Z') && inner.contains('T') {
        "TIME".to_owned()
    } else if is_age(inner) {
        "AGE".to_owned()
    } else if inner.parse::<std::net::IpAddr>().is_ok() {
        "IP".to_owned()
    } else if let Ok(place) = inner.parse::<std::net::SocketAddr>() {
        let port = place.port().to_string();
        format!("IP:{}", if of_client(&port) { "PORT" } else { &port })
    } else if inner.strip_prefix(':').is_some_and(of_client) {
        ":PORT".to_owned()
    } else {
        match inner.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() => format!("{}:{port}", of_pod(host, "\0")),
            _ => of_pod(inner, "\0"),
        }
    };
    run.replacen(inner, &named, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_several_lines_and_what_is_shown_below_are_told_apart() {
        let text = "```console\n$ one \\\n  two\nthree\n$ four <<'EOF'\n$ five\nEOF\n$ six\n```\ntalk\n```text\n$ no\n```\n```console\n$ seven\n…\n```\n";
        let steps: Vec<_> = commands(text).into_iter().map(|step| (step.command, step.output)).collect();
        let step = |command: &str, output: Option<&str>| (command.to_owned(), output.map(str::to_owned));
        assert_eq!(
            steps,
            [
                step("one \\\n  two", Some("three\n")),
                step("four <<'EOF'\n$ five\nEOF", None),
                step("six", None),
                step("seven", Some("…\n"))
            ]
        );
    }

    #[test]
    fn what_came_back_is_what_is_shown_but_for_what_is_cut_and_what_differs_from_run_to_run() {
        for (shown, got, alike) in [
            ("a b", "a  b\n", true),
            ("a b", "a c", false),
            ("a", "a\nb", false),
            ("a\n…", "a\nb\nc", true),
            ("a\n…\nc", "a\nb\nc", true),
            ("a\n…\nd", "a\nb\nc", false),
            ("a … d", "a b c d", true),
            ("a … c …", "a b c d", true),
            ("a … d", "a b c e", false),
            ("a …", "b a", false),
            ("12:00:00.001 [6b0d475800000003]", "13:10:10.123 [0b0d475800000001]", true),
            (
                "web-895gmwddvq-wb4k8 10.0.0.1:9000 [fd86::1]:40000 5s",
                "web-795gmwddvq-wb4k9 10.1.0.1:9000 [fd86::2]:50000 7s",
                true,
            ),
            ("web-895gmwddvq-wb4k8:9000 x", "web-795gmwddvq-wb4k9:9000 x", true),
            ("web-895gmwddvq-wb4k8:9000", "web-795gmwddvq-wb4k9:9001", false),
            ("10.0.0.1:9000", "10.0.0.1:9001", false),
            ("(10.0.0.1): refused", "(10.0.0.2): refused", true),
        ] {
            assert_eq!(is_alike(shown, got), alike, "{shown} | {got}");
        }
    }
}
