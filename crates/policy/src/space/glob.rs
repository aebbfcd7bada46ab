//! Languages of names: all patterns run side by side over every text at once, and each set of patterns that some text fulfils together
//! is one class, with its shortest member as example.

use std::collections::{BTreeMap, HashMap};

use super::Bound;
use super::bits::Bits;

/// States of one language. Patterns without a star inside need about as many states as they have characters; only those that overlap in
/// many ways need more, and then the number doubles with each.
const STATES_MAX: usize = 50_000;
/// Positions in all states together: bounds time to a tenth of a second and memory to some ten megabytes.
const POSITIONS_MAX: usize = 1_000_000;

/// What an example is made of where any character will do.
const ANY_CHARACTERS: &str = "xyzabcdefghijklmnopqrstuvw0123456789";

/// Literal pieces with any text between them; a single piece is that text alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Glob(Vec<String>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Char(char),
    Star,
}

impl Glob {
    pub(super) fn any() -> Self {
        Self(vec![String::new(), String::new()])
    }

    pub(super) fn new<S: Into<String>>(pieces: impl IntoIterator<Item = S>) -> Self {
        Self(pieces.into_iter().map(Into::into).collect())
    }

    /// Every `*` of the text is any text.
    pub(super) fn starred(text: &str) -> Self {
        Self::new(text.split('*'))
    }

    pub(super) fn of_tokens(tokens: &[Token]) -> Self {
        let mut pieces = vec![String::new()];
        for token in tokens {
            match (token, pieces.last_mut()) {
                (Token::Char(c), Some(last)) => last.push(*c),
                (Token::Char(_), None) | (Token::Star, _) => pieces.push(String::new()),
            }
        }
        Self(pieces)
    }

    /// Never two stars in a row.
    pub(super) fn tokens(&self) -> Vec<Token> {
        let mut tokens = Vec::new();
        for (at, piece) in self.0.iter().enumerate() {
            if at > 0 && tokens.last() != Some(&Token::Star) {
                tokens.push(Token::Star);
            }
            tokens.extend(piece.chars().map(Token::Char));
        }
        tokens
    }

    /// The only text that matches, if there is but one.
    pub(super) fn exact(&self) -> Option<&str> {
        if let [only] = self.0.as_slice() { Some(only) } else { None }
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        let mut pieces = self.0.iter();
        let first = pieces.next().map(String::as_str).unwrap_or_default();
        let Some(mut rest) = text.strip_prefix(first) else { return false };
        let Some(mut piece) = pieces.next() else { return rest.is_empty() };
        for following in pieces {
            let Some((_, after)) = rest.split_once(piece.as_str()) else { return false };
            (rest, piece) = (after, following);
        }
        rest.ends_with(piece.as_str())
    }

    /// As somebody would write it.
    pub(super) fn text(&self) -> String {
        self.0.join("*")
    }
}

/// All texts of a kind, cut by some patterns.
#[derive(Debug)]
pub(super) struct Language {
    pub(super) globs: Vec<Glob>,
    pub(super) classes: Vec<Class>,
    /// A class whose example is better than an invented one.
    pub(super) preferred: Option<usize>,
    by_accepts: HashMap<Bits, usize>,
}

/// Texts that fulfil the same patterns.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) accepts: Bits,
    pub(super) example: String,
}

impl Language {
    /// All texts of at least one character; without this character, if one is named.
    pub(super) fn new(globs: Vec<Glob>, without: Option<char>) -> Result<Self, Bound> {
        let mut language = Self { globs, classes: Vec::new(), preferred: None, by_accepts: HashMap::new() };
        Walk::new(&language.globs, without).run(&mut language)?;
        Ok(language)
    }

    pub(super) fn accepts(&self, text: &str) -> Bits {
        let matching = self.globs.iter().enumerate().filter(|(_, glob)| glob.matches(text)).map(|(at, _)| at);
        Bits::of(self.globs.len(), matching)
    }

    /// The class of a text of the language.
    pub(super) fn class_of(&self, text: &str) -> Option<usize> {
        self.by_accepts.get(&self.accepts(text)).copied()
    }

    /// Takes this text as the example of its class.
    pub(super) fn prefer(&mut self, text: &str) {
        self.preferred = self.class_of(text);
        if let Some(class) = self.preferred.and_then(|at| self.classes.get_mut(at)) {
            text.clone_into(&mut class.example);
        }
    }

    /// Whether the class is one single text.
    pub(super) fn is_single(&self, class: usize) -> bool {
        let class = self.classes.get(class);
        class.is_some_and(|class| {
            class.accepts.iter().any(|at| self.globs.get(at).is_some_and(|glob| glob.exact().is_some()))
        })
    }

    /// A text of one of these classes.
    pub(super) fn example(&self, classes: &Bits) -> Option<&str> {
        let at = self.preferred.filter(|at| classes.has(*at)).or_else(|| classes.iter().next())?;
        self.classes.get(at).map(|class| class.example.as_str())
    }

    fn note(&mut self, accepts: Bits, example: impl FnOnce() -> String) {
        let next = self.classes.len();
        if let std::collections::hash_map::Entry::Vacant(vacant) = self.by_accepts.entry(accepts) {
            let accepts = vacant.key().clone();
            vacant.insert(next);
            self.classes.push(Class { accepts, example: example() });
        }
    }
}

#[derive(Clone, Copy)]
enum Step {
    Char(char),
    Star,
    /// The end of this glob.
    End(usize),
}

/// The walk through all states that can be reached, the nearest first.
struct Walk {
    steps: Vec<Step>,
    without: Option<char>,
    globs: usize,
    states: Vec<State>,
    known: HashMap<Box<[usize]>, usize>,
    positions: usize,
}

struct State {
    /// Ascending. A star stands for the position after it, too; what lies before the last star of a glob is left out, because whatever
    /// it will accept that star accepts as well.
    live: Box<[usize]>,
    /// How it was reached.
    from: Option<(usize, char)>,
}

impl Walk {
    fn new(globs: &[Glob], without: Option<char>) -> Self {
        let mut steps = Vec::new();
        let mut start = Vec::new();
        for (at, glob) in globs.iter().enumerate() {
            start.push(steps.len());
            steps.extend(glob.tokens().into_iter().map(|token| match token {
                Token::Char(c) => Step::Char(c),
                Token::Star => Step::Star,
            }));
            steps.push(Step::End(at));
        }
        let states = vec![State { live: start.into(), from: None }];
        Self { steps, without, globs: globs.len(), states, known: HashMap::new(), positions: 0 }
    }

    fn run(mut self, language: &mut Language) -> Result<(), Bound> {
        let mut at = 0;
        while let Some(state) = self.states.get(at) {
            let live = state.live.clone();
            if state.from.is_some() {
                language.note(self.accepts(&live), || self.text(at));
            }
            let (stars, moves) = self.moves(&live);
            let other = ANY_CHARACTERS
                .chars()
                .chain('\u{a1}'..=char::MAX)
                .find(|c| !moves.contains_key(c) && Some(*c) != self.without);
            for (c, moved) in moves.iter().map(|(c, moved)| (*c, moved.as_slice())).chain(other.map(|c| (c, &[][..]))) {
                if Some(c) == self.without {
                    continue;
                }
                let next = self.normal(stars.iter().chain(moved).copied().collect());
                if self.known.contains_key(&next) {
                    continue;
                }
                self.positions += next.len() + 1;
                if self.states.len() >= STATES_MAX || self.positions > POSITIONS_MAX {
                    return Err(Bound::Classes);
                }
                self.known.insert(next.clone(), self.states.len());
                self.states.push(State { live: next, from: Some((at, c)) });
            }
            at += 1;
        }
        Ok(())
    }

    /// The stars, which stay, and where each character leads.
    fn moves(&self, live: &[usize]) -> (Vec<usize>, BTreeMap<char, Vec<usize>>) {
        let (mut stars, mut moves) = (Vec::new(), BTreeMap::<char, Vec<usize>>::new());
        let mut advance = |position: usize| {
            if let Some(Step::Char(c)) = self.steps.get(position) {
                moves.entry(*c).or_default().push(position + 1);
            }
        };
        for &position in live {
            if let Some(Step::Star) = self.steps.get(position) {
                stars.push(position);
                advance(position + 1);
            } else {
                advance(position);
            }
        }
        (stars, moves)
    }

    fn normal(&self, mut positions: Vec<usize>) -> Box<[usize]> {
        positions.sort_unstable();
        positions.dedup();
        let mut kept: Vec<usize> = Vec::with_capacity(positions.len());
        for position in positions {
            if let Some(Step::Star) = self.steps.get(position) {
                // Those of the same glob have no end between them and this one.
                while kept.last().is_some_and(|before| !self.is_end_between(*before, position)) {
                    kept.pop();
                }
            }
            kept.push(position);
        }
        kept.into()
    }

    fn is_end_between(&self, first: usize, last: usize) -> bool {
        self.steps.get(first..last).is_none_or(|steps| steps.iter().any(|step| matches!(step, Step::End(_))))
    }

    fn accepts(&self, live: &[usize]) -> Bits {
        let end = |position: usize| match (self.steps.get(position), self.steps.get(position + 1)) {
            (Some(Step::End(glob)), _) | (Some(Step::Star), Some(Step::End(glob))) => Some(*glob),
            _ => None,
        };
        Bits::of(self.globs, live.iter().filter_map(|position| end(*position)))
    }

    fn text(&self, mut at: usize) -> String {
        let mut reversed = Vec::new();
        while let Some((before, c)) = self.states.get(at).and_then(|state| state.from) {
            reversed.push(c);
            at = before;
        }
        reversed.iter().rev().collect()
    }
}
