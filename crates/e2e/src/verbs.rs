//! Lines as people type them, and what must come back, whichever kubectl it is.
//!
//! What differs from run to run (ages, addresses, names that are made up) is named before it is compared.

use crate::mesh::{Kubectl, Mesh, Played, kubectls};
use control::walkthrough::Step;

/// Kubectl builds that are tried at the same time: each is busy for as long as it runs, and test machines have few CPUs.
const AT_ONCE: usize = 3;

/// One line and what must come back.
#[derive(Debug, Clone)]
pub struct Line {
    typed: String,
    since: u32,
    only: Option<&'static [u32]>,
    fails: bool,
    wants: Vec<Want>,
}

#[derive(Debug, Clone)]
enum Want {
    /// All of it, up to some version and from some version on.
    Says { since: u32, before: u32, text: String },
    /// Each of these somewhere.
    Has(Vec<String>),
    /// None of these anywhere.
    HasNot(Vec<String>),
}

/// A line that must succeed.
pub fn line(typed: &str) -> Line {
    Line { typed: typed.to_owned(), since: 0, only: None, fails: false, wants: Vec::new() }
}

impl Line {
    /// It is typed from this minor version on only: older ones do not know it.
    #[must_use]
    pub const fn since(mut self, minor: u32) -> Self {
        self.since = minor;
        self
    }

    /// It is typed with a few versions only: one of each way to ask that there is.
    #[must_use]
    pub const fn with_few(mut self) -> Self {
        self.only = Some(&[20, 28, 32, 37]);
        self
    }

    fn is_for(&self, minor: u32) -> bool {
        self.since <= minor && self.only.is_none_or(|only| only.contains(&minor))
    }

    /// It must fail.
    #[must_use]
    pub const fn fails(mut self) -> Self {
        self.fails = true;
        self
    }

    /// What it says, all of it.
    #[must_use]
    pub fn says(self, text: &str) -> Self {
        self.says_in(0, u32::MAX, text)
    }

    /// The same for the versions from `since` on and before `before`.
    #[must_use]
    pub fn says_in(mut self, since: u32, before: u32, text: &str) -> Self {
        self.wants.push(Want::Says { since, before, text: text.trim().to_owned() });
        self
    }

    /// What it says among other things.
    #[must_use]
    pub fn has(mut self, words: &[&str]) -> Self {
        self.wants.push(Want::Has(words.iter().map(|&word| word.to_owned()).collect()));
        self
    }

    /// What it does not say.
    #[must_use]
    pub fn has_not(mut self, words: &[&str]) -> Self {
        self.wants.push(Want::HasNot(words.iter().map(|&word| word.to_owned()).collect()));
        self
    }

    /// What is wrong with what came back.
    fn fault(&self, kubectl: &Kubectl, namespace: &str, played: &Played) -> Option<String> {
        let said = named(&format!("{}{}", played.stdout, played.stderr), namespace);
        let mut faults = Vec::new();
        if (played.code != 0) != self.fails {
            faults.push(format!("it ended with {}", played.code));
        }
        for want in &self.wants {
            match want {
                Want::Says { since, before, text } => {
                    let counts = (*since..*before).contains(&kubectl.minor());
                    if counts && said != *text {
                        faults.push(format!("it is to say\n{text}"));
                    }
                }
                Want::Has(words) => {
                    for word in words.iter().filter(|word| !said.contains(word.as_str())) {
                        faults.push(format!("it is to say `{word}` among other things"));
                    }
                }
                Want::HasNot(words) => {
                    for word in words.iter().filter(|word| said.contains(word.as_str())) {
                        faults.push(format!("it is not to say `{word}`"));
                    }
                }
            }
        }
        let (version, typed) = (&kubectl.version, &self.typed);
        (!faults.is_empty()).then(|| format!("kubectl {version}: {typed}\n{}\nand says\n{said}\n\n", faults.join("\n")))
    }
}

/// Types the lines with every kubectl, each in a namespace of its own that `prepare` has filled, and compares.
///
/// The namespace is `$NS`; in what comes back it is `NS`.
pub fn play(mesh: &Mesh, prepare: &str, lines: &[Line]) {
    let faults: Vec<String> = with_each(|kubectl| {
        let namespace = format!("v{}", kubectl.minor());
        let start = format!(
            "eval \"$(tidegate env -n {namespace})\"; export NS={namespace}; mkdir -p $NS && cd $NS && kubectl create ns $NS && {{ {prepare}\n}}"
        );
        let typed: Vec<&Line> = lines.iter().filter(|line| line.is_for(kubectl.minor())).collect();
        let step = |command: &str| Step { command: command.to_owned(), printed: true, output: None };
        let mut steps = vec![step(&start)];
        steps.extend(typed.iter().map(|line| step(&line.typed)));
        let played = mesh.play(kubectl, &steps);
        let (first, rest) = played.split_first().unwrap_or_else(|| panic!("nothing was played"));
        assert_eq!(first.code, 0, "kubectl {}: {prepare}\n{}{}", kubectl.version, first.stdout, first.stderr);
        typed.iter().zip(rest).filter_map(|(line, played)| line.fault(kubectl, &namespace, played)).collect::<Vec<_>>()
    });
    assert!(faults.is_empty(), "{}", faults.concat());
}

/// Does something with every kubectl, some of them at the same time; what they give back, in order.
pub fn with_each<T: Send>(work: impl Fn(&Kubectl) -> Vec<T> + Sync) -> Vec<T> {
    let (all, work) = (kubectls(), &work);
    let mut found = Vec::new();
    for some in all.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let running: Vec<_> = some.iter().map(|kubectl| scope.spawn(move || work(kubectl))).collect();
            for one in running {
                match one.join() {
                    Ok(told) => found.extend(told),
                    Err(why) => std::panic::resume_unwind(why),
                }
            }
        });
    }
    found
}

/// A text with one blank between words, and names for what differs from run to run.
pub fn named(text: &str, namespace: &str) -> String {
    let line = |line: &str| line.split_whitespace().map(|word| name(word, namespace)).collect::<Vec<_>>().join(" ");
    // What Tidegate says of policies besides is what other tests are about.
    let lines: Vec<String> = text
        .lines()
        .filter(|line| !line.starts_with("Warning: TG"))
        .map(line)
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("\n")
}

fn name(word: &str, namespace: &str) -> String {
    let inner = word.trim_matches(|letter: char| "()\"',;".contains(letter));
    let is = |letters: &str, text: &str| text.chars().all(|letter| letters.contains(letter));
    let named = if inner == namespace {
        "NS".to_owned()
    } else if is_age(inner) {
        "AGE".to_owned()
    } else if inner.len() == 36 && inner.matches('-').count() == 4 && is("0123456789abcdef-", inner) {
        "UID".to_owned()
    } else if inner.len() == 20 && inner.ends_with('Z') && inner.contains('T') {
        "TIME".to_owned()
    } else {
        let of = |separator: char, part: fn(&str, &str) -> String| {
            let parts: Vec<String> = inner.split(separator).map(|text| part(text, namespace)).collect();
            parts.join(&separator.to_string())
        };
        if inner.contains('=') { of('=', of_pod) } else { of('/', |part, namespace| of_pod(&address(part), namespace)) }
    };
    word.replacen(inner, &named, 1)
}

/// Ages such as `5s` and `2m13s`.
pub(crate) fn is_age(word: &str) -> bool {
    let units: String = word.chars().filter(|letter| !letter.is_ascii_digit()).collect();
    let is_number = word.starts_with(|letter: char| letter.is_ascii_digit()) && word.ends_with(char::is_alphabetic);
    is_number && matches!(units.as_str(), "s" | "m" | "h" | "ms" | "hm")
}

/// Addresses of pods and services, with ports left as they are.
fn address(word: &str) -> String {
    let v4 = |text: &str| text.starts_with("10.") && text.matches('.').count() == 3;
    let parts: Vec<String> = word
        .split(',')
        .map(|part| match part.rsplit_once(':') {
            Some((address, port)) if v4(address) => format!("IP:{port}"),
            Some((address, port)) if address.starts_with("[fd") => format!("IP6:{port}"),
            _ if v4(part) => "IP".to_owned(),
            _ if part.starts_with("fd") && part.contains("::") => "IP6".to_owned(),
            _ => part.to_owned(),
        })
        .collect();
    parts.join(",")
}

/// Names of replica sets and pods, which end in letters that no word has.
pub(crate) fn of_pod(word: &str, namespace: &str) -> String {
    if word == namespace {
        return "NS".to_owned();
    }
    let made_up = |part: &&str| part.chars().all(|letter| "bcdfghjklmnpqrstvwxz2456789".contains(letter));
    let mut parts: Vec<&str> = Vec::new();
    for part in word.split('-') {
        let before = parts.last() == Some(&"HASH");
        parts.push(match part.len() {
            10 if made_up(&part) => "HASH",
            5 if before && made_up(&part) => "POD",
            _ => part,
        });
    }
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn what_differs_from_run_to_run_has_a_name() {
        for (text, wanted) in [
            ("web-895gmwddvq-wb4k8   1/1  Running 2 (5s ago)  2m13s", "web-HASH-POD 1/1 Running 2 (AGE ago) AGE"),
            ("Endpoints: 10.58.0.1:9000,[fde5:8240:1d3a:1::1]:9000", "Endpoints: IP:9000,IP6:9000"),
            ("pod/web-895gmwddvq-wb4k8 deployment.apps/web", "pod/web-HASH-POD deployment.apps/web"),
            ("assigned v20/one to tidegate; \"v20\"", "assigned NS/one to tidegate; \"NS\""),
            ("uid: 89205118-00fc-4e36-856c-0f2123a636a8 at 2026-11-30T03:37:44Z", "uid: UID at TIME"),
            ("app=web,pod-template-hash=j8m9hbnxc8", "app=web,pod-template-hash=HASH"),
            ("5s3 80s x 9000/TCP,9001/TCP", "5s3 AGE x 9000/TCP,9001/TCP"),
        ] {
            assert_eq!(named(text, "v20"), wanted);
        }
    }
}
