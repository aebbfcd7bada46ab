//! The two walkthroughs as data: their commands, byte for byte, and what they print. `demo` plays them and the
//! end-to-end tests run them, from the same text.

use thiserror::Error;

/// The commands of Istio's task "Authorization for TCP traffic".
pub const ISTIO: &str = include_str!("../../../docs/walkthroughs/istio-tcp.txt");

/// The commands of ASM's "Configure authorization policies for TCP requests".
pub const ASM: &str = include_str!("../../../docs/walkthroughs/asm-tcp.txt");

/// One command of a walkthrough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The command, byte for byte; several lines when it holds a here-document.
    pub command: String,
    /// Whether the text prints it (`$`), or Tidegate adds it or the text only describes it in words (`+`).
    pub printed: bool,
    /// What it prints on standard output; `None` where the text shows no outcome.
    pub output: Option<String>,
}

impl Step {
    /// Whether the text says that this connection is refused.
    pub fn is_refusal(&self) -> bool {
        self.output.as_deref() == Some("connection rejected\n")
    }
}

/// A walkthrough that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line} stands outside any command: `{text}`; a command starts with `$ ` or `+ `")]
pub struct StrayLine {
    /// Its number, from 1.
    pub line: usize,
    /// The line.
    pub text: String,
}

/// Reads a walkthrough; the format stands at the top of each file.
pub fn parse(text: &str) -> Result<Vec<Step>, StrayLine> {
    let mut steps: Vec<Step> = Vec::new();
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        let starts = line.strip_prefix("$ ").map(|rest| (rest, true));
        let starts = starts.or_else(|| line.strip_prefix("+ ").map(|rest| (rest, false)));
        match (open, starts, steps.last_mut()) {
            (false, Some((command, printed)), _) => {
                steps.push(Step { command: command.to_owned(), printed, output: None });
                open = true;
            }
            (false, None, _) if line.is_empty() || line.starts_with('#') => {}
            (true, _, Some(_)) if line.is_empty() => open = false,
            (true, _, Some(step)) => absorb(step, line),
            _ => return Err(StrayLine { line: index.saturating_add(1), text: line.to_owned() }),
        }
    }
    Ok(steps)
}

/// A line after the first of a command: what it prints, or more of itself.
fn absorb(step: &mut Step, line: &str) {
    let Some(output) = line.strip_prefix("> ") else {
        step.command.push('\n');
        step.command.push_str(line);
        return;
    };
    let text = step.output.get_or_insert_with(String::new);
    text.push_str(output);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_texts_are_read_whole() {
        let printed = |text| parse(text).unwrap().into_iter().filter(|step| step.printed).count();
        assert_eq!(printed(ISTIO), 18);
        assert_eq!(printed(ASM), 7);
        assert_eq!(parse(ISTIO).unwrap().iter().filter(|step| step.is_refusal()).count(), 4);
    }

    #[test]
    fn a_here_document_stays_one_command_and_output_is_kept_apart() {
        let steps = parse("# talk\n\n$ cat <<EOF\na: 1\nEOF\n> a: 1\n\n+ true\n").unwrap();
        assert_eq!(steps.len(), 2);
        assert_eq!(steps[0].command, "cat <<EOF\na: 1\nEOF");
        assert_eq!(steps[0].output.as_deref(), Some("a: 1\n"));
        assert_eq!(steps[1].output, None);
        assert!(!steps[1].printed);
    }

    #[test]
    fn a_stray_line_is_named() {
        assert_eq!(parse("\noops\n").unwrap_err().line, 2);
    }
}
