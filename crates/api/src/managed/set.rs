//! Sets of fields as trees, and their form in JSON (`fieldsV1`): `f:` a field, `k:` an element of a list by its keys,
//! `v:` an element by its value, `i:` one by its index, `.` the place itself.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

/// One step from a value to a part of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// A field of a mapping.
    Field(String),
    /// An element of a list by its keys: a JSON mapping with sorted names.
    Keys(String),
    /// An element of a list by its value, in JSON.
    Value(String),
    /// An element of a list by its index.
    Index(u64),
}

/// A set of places in an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldSet(BTreeMap<Step, Branch>);

/// What of one step is in a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Branch {
    /// The place itself.
    pub(super) itself: bool,
    /// Places inside it.
    pub(super) below: FieldSet,
}

const ITSELF: &str = ".";

impl FieldSet {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What of this step is in the set.
    pub(super) fn get(&self, step: &Step) -> Option<&Branch> {
        self.0.get(step)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Step, &Branch)> {
        self.0.iter()
    }

    /// Puts a whole branch in; one with nothing in it is left out.
    pub(super) fn put(&mut self, step: Step, itself: bool, below: Self) {
        if itself || !below.is_empty() {
            self.0.insert(step, Branch { itself, below });
        }
    }

    /// Puts one place in.
    pub(super) fn insert(&mut self, path: &[Step]) {
        if let Some((first, rest)) = path.split_first() {
            let branch = self.0.entry(first.clone()).or_default();
            if rest.is_empty() {
                branch.itself = true;
            } else {
                branch.below.insert(rest);
            }
        }
    }

    /// Places of either.
    #[must_use]
    pub(super) fn union(&self, other: &Self) -> Self {
        let mut all = self.clone();
        for (step, branch) in &other.0 {
            let mine = all.0.entry(step.clone()).or_default();
            mine.itself |= branch.itself;
            mine.below = mine.below.union(&branch.below);
        }
        all
    }

    /// Places of both.
    #[must_use]
    pub(super) fn intersection(&self, other: &Self) -> Self {
        self.select(other, |mine, theirs| mine && theirs, Self::intersection)
    }

    /// Places of this one that the other has not.
    #[must_use]
    pub(super) fn difference(&self, other: &Self) -> Self {
        self.select(other, |mine, theirs| mine && !theirs, Self::difference)
    }

    fn select(&self, other: &Self, itself: fn(bool, bool) -> bool, below: fn(&Self, &Self) -> Self) -> Self {
        let (mut left, nothing) = (Self::default(), Branch::default());
        for (step, mine) in &self.0 {
            let theirs = other.0.get(step).unwrap_or(&nothing);
            left.put(step.clone(), itself(mine.itself, theirs.itself), below(&mine.below, &theirs.below));
        }
        left
    }

    /// Only what lies in this field, or only what does not.
    #[must_use]
    pub(super) fn within(&self, field: &str, inside: bool) -> Self {
        let lies_in = |step: &Step| matches!(step, Step::Field(name) if name == field);
        Self(
            self.0
                .iter()
                .filter(|(step, _)| lies_in(step) == inside)
                .map(|(step, branch)| (step.clone(), branch.clone()))
                .collect(),
        )
    }

    /// Every place as people write it, such as `.spec.containers[name="a"].image`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.write_paths("", &mut paths);
        paths
    }

    fn write_paths(&self, before: &str, paths: &mut Vec<String>) {
        for (step, branch) in &self.0 {
            let path = format!("{before}{step}");
            branch.below.write_paths(&path, paths);
            if branch.itself {
                paths.push(path);
            }
        }
    }

    /// Reads the form in JSON; none if it is malformed.
    pub(super) fn read(value: &Value) -> Option<Self> {
        let mut set = Self::default();
        for (name, inside) in value.as_object()?.iter().filter(|(name, _)| *name != ITSELF) {
            let fields = inside.as_object()?;
            let below = Self::read(inside)?;
            // A place without anything inside is meant itself.
            let itself = fields.is_empty() || fields.contains_key(ITSELF);
            set.put(Step::read(name)?, itself, below);
        }
        Some(set)
    }

    /// The form in JSON.
    pub(super) fn write(&self) -> Value {
        let branch = |(step, branch): (&Step, &Branch)| {
            let mut fields = Map::new();
            if branch.itself && !branch.below.is_empty() {
                fields.insert(ITSELF.to_owned(), Value::Object(Map::new()));
            }
            if let Value::Object(below) = branch.below.write() {
                fields.extend(below);
            }
            (step.write(), Value::Object(fields))
        };
        Value::Object(self.0.iter().map(branch).collect())
    }
}

impl Step {
    pub(super) fn field(name: &str) -> Self {
        Self::Field(name.to_owned())
    }

    fn read(name: &str) -> Option<Self> {
        let (kind, rest) = name.split_once(':')?;
        match kind {
            "f" => Some(Self::Field(rest.to_owned())),
            "k" => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(rest).ok()?;
                Some(Self::Keys(keys_text(keys.into_iter().collect())))
            }
            "v" => Some(Self::Value(serde_json::from_str::<Value>(rest).ok()?.to_string())),
            "i" => rest.parse().ok().map(Self::Index),
            _ => None,
        }
    }

    fn write(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Keys(keys) => format!("k:{keys}"),
            Self::Value(value) => format!("v:{value}"),
            Self::Index(index) => format!("i:{index}"),
        }
    }
}

/// The text of an element's keys, which must be sorted by name.
pub(super) fn keys_text(keys: Map<String, Value>) -> String {
    Value::Object(keys).to_string()
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Keys(keys) => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                write!(f, "[{}]", keys.join(","))
            }
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}
