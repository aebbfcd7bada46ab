//! What may stand at the cursor, by the definition of the command line itself. Values are known by the name that the help
//! gives them: `WORKLOAD`, `POLICY`, `NAMESPACE`, `IMAGE`, `FILE`, `DIR`, `PATH`.

use clap::{Arg, ArgAction, Command, ValueHint};

/// What may stand for the word at the cursor.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// What has been typed of it.
    pub(super) begun: String,
    /// Words, each with what is said about it.
    pub(super) offers: Vec<(String, String)>,
    /// What else.
    pub(super) wanted: Wanted,
    /// The value of `--data-dir`, where it stands before the cursor.
    pub(super) data_dir: Option<String>,
}

/// What is not known from the command line's definition.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nothing.
    Nothing,
    /// Files and folders.
    Files,
    /// Names from the mesh.
    Names {
        /// Of what.
        kind: Kind,
        /// What stands before them in the same word: `--from=`.
        prefix: String,
    },
}

/// What has names in a mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Workload,
    Policy,
    Namespace,
    Image,
}

/// Reads the words before the last one, and says what the last one may be.
pub(super) fn ask(root: &Command, words: &[String]) -> Asked {
    let (begun, before) = words.split_last().map_or(("", [].as_slice()), |(last, before)| (last.as_str(), before));
    let mut at = At { command: root, option: None, positional: 0, only_positionals: false, data_dir: None };
    for word in before {
        at.pass(word);
    }
    let mut asked =
        Asked { begun: begun.to_owned(), offers: Vec::new(), wanted: Wanted::Nothing, data_dir: at.data_dir.clone() };
    if let Some(option) = at.option {
        // bash makes a word of its own of the sign in `--output=json`.
        if begun == "=" {
            asked.begun.clear();
        }
        value(option, "", &mut asked);
        return asked;
    }
    if !at.only_positionals && begun.starts_with('-') {
        match begun.split_once('=') {
            Some((name, _)) => {
                if let Some(option) = at.find(name) {
                    value(option, &format!("{name}="), &mut asked);
                }
            }
            None => options(at.command, &mut asked),
        }
        return asked;
    }
    if at.positional == 0 {
        let visible = at.command.get_subcommands().filter(|verb| !verb.is_hide_set());
        asked.offers.extend(visible.map(|verb| (verb.get_name().to_owned(), said(verb.get_about()))));
    }
    if let Some(positional) = at.command.get_positionals().nth(at.positional).or_else(|| last_of_many(at.command)) {
        value(positional, "", &mut asked);
    }
    asked
}

/// Where the words before the cursor lead.
struct At<'c> {
    command: &'c Command,
    /// The option whose value comes next.
    option: Option<&'c Arg>,
    positional: usize,
    only_positionals: bool,
    data_dir: Option<String>,
}

impl<'c> At<'c> {
    fn pass(&mut self, word: &str) {
        if let Some(option) = self.option {
            if word != "=" {
                self.note(option, word);
                self.option = None;
            }
        } else if self.only_positionals {
            self.positional += 1;
        } else if word == "--" {
            self.only_positionals = true;
        } else if word.len() > 1 && word.starts_with('-') {
            let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
            let found = self.find(name).filter(|option| takes_value(option));
            match (found, value) {
                (Some(option), Some(value)) => self.note(option, value),
                (found, _) => self.option = found,
            }
        } else if let Some(verb) = self.command.find_subcommand(word).filter(|_| self.positional == 0) {
            self.command = verb;
        } else {
            self.positional += 1;
        }
    }

    fn note(&mut self, option: &Arg, value: &str) {
        if option.get_long() == Some("data-dir") {
            self.data_dir = Some(value.to_owned());
        }
    }

    /// The option of a word: `--long`, `-s`, or the last of `-abc`.
    fn find(&self, word: &str) -> Option<&'c Arg> {
        let mut all = self.command.get_arguments();
        let Some(long) = word.strip_prefix("--") else {
            let short = word.chars().last()?;
            return all.find(|option| option.get_short() == Some(short));
        };
        all.find(|option| {
            option.get_long() == Some(long) || option.get_all_aliases().is_some_and(|other| other.contains(&long))
        })
    }
}

fn takes_value(option: &Arg) -> bool {
    matches!(option.get_action(), ArgAction::Set | ArgAction::Append)
}

fn last_of_many(command: &Command) -> Option<&Arg> {
    let many = |positional: &&Arg| matches!(positional.get_action(), ArgAction::Append);
    command.get_positionals().last().filter(many)
}

fn options(command: &Command, asked: &mut Asked) {
    for option in command.get_arguments().filter(|option| !option.is_hide_set() && !option.is_positional()) {
        let about = said(option.get_help());
        let words = option
            .get_long()
            .map(|long| format!("--{long}"))
            .or_else(|| option.get_short().map(|short| format!("-{short}")));
        asked.offers.extend(words.map(|word| (word, about)));
    }
}

/// What a value may be.
fn value(arg: &Arg, prefix: &str, asked: &mut Asked) {
    let possible: Vec<_> = arg.get_possible_values().into_iter().filter(|value| !value.is_hide_set()).collect();
    if !possible.is_empty() {
        asked
            .offers
            .extend(possible.iter().map(|value| (format!("{prefix}{}", value.get_name()), said(value.get_help()))));
        return;
    }
    let name = arg.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
    let names = |kind| Wanted::Names { kind, prefix: prefix.to_owned() };
    let is_path = matches!(arg.get_value_hint(), ValueHint::AnyPath | ValueHint::FilePath | ValueHint::DirPath);
    asked.wanted = match name {
        "WORKLOAD" => names(Kind::Workload),
        "POLICY" => names(Kind::Policy),
        "NAMESPACE" => names(Kind::Namespace),
        "IMAGE" => names(Kind::Image),
        _ if is_path || ["FILE", "DIR", "PATH"].iter().any(|word| name.contains(word)) => Wanted::Files,
        _ => Wanted::Nothing,
    };
}

/// The first line of a help text.
fn said(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
