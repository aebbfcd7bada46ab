//! A text to suites. Strict: what the tables of `shape.rs` do not name is an error with its place, because a word that is
//! silently passed over would be a test that tests nothing.

mod parts;

use api::yaml::{Document, documents};
use policy::Profile;
use policy::finding::FieldPath;
use serde_json::{Map, Value};

use super::shape::{self, Shape};
use super::{API_VERSION, Ask, Item, POLICY_ASSERTION, POLICY_TEST, Problem, Suite, Suites};

/// Reads the suites of a text. Documents of other kinds are counted and passed over, so that tests may stand beside the
/// objects they are about.
pub fn read(text: &str) -> Suites {
    let mut found = Suites::default();
    for document in documents(text) {
        if document.is_empty() {
            continue;
        }
        let ours = document.fatal().is_some() || kind(&document.value).is_some();
        if !ours {
            found.others += 1;
            continue;
        }
        let mut reader = Reader { document: &document, problems: Vec::new() };
        for problem in &document.problems {
            reader.problems.push(Problem {
                span: problem.span.clone(),
                message: problem.message.clone(),
                in_test: kind(&document.value).is_some(),
            });
        }
        let suite = if document.fatal().is_none() { reader.suite() } else { None };
        // Of a suite with a mistake nothing is run: its author would believe that all of it was.
        if reader.problems.is_empty() {
            found.suites.extend(suite);
        }
        found.problems.append(&mut reader.problems);
    }
    found
}

/// The kind of a document, if it is one of ours by its group; versions are the reader's to judge.
fn kind(document: &Value) -> Option<&str> {
    let group = document.get("apiVersion")?.as_str()?.split('/').next()?;
    let kind = document.get("kind")?.as_str()?;
    let ours = Some(group) == API_VERSION.split('/').next() && matches!(kind, POLICY_TEST | POLICY_ASSERTION);
    ours.then_some(kind)
}

/// Reads one document and gathers what is wrong with it.
struct Reader<'d> {
    document: &'d Document,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    /// Notes what is wrong with the value at a path; for a missing value, with what should hold it.
    fn fault(&mut self, at: &FieldPath, message: impl Into<String>) {
        let found = self.document.locate(&at.to_string());
        let span =
            found.map(|(key, node)| key.unwrap_or(&node.span)).or_else(|| Some(&self.document.root.as_ref()?.span));
        if let Some(span) = span.cloned() {
            self.problems.push(Problem { span, message: message.into(), in_test: true });
        }
    }

    /// A mapping with the fields of a shape; every field that it should not have is told.
    fn shaped<'v>(&mut self, value: &'v Value, at: &FieldPath, shape: &Shape) -> Option<&'v Map<String, Value>> {
        let Some(map) = value.as_object() else {
            let fields: Vec<&str> = shape.fields().collect();
            self.fault(at, format!("a {} is a mapping of {}", shape.name, fields.join(", ")));
            return None;
        };
        for key in map.keys().filter(|key| !shape.fields().any(|field| field == key.as_str())) {
            let near = crate::admission::nearest::nearest_word(key, shape.fields());
            let fields: Vec<&str> = shape.fields().collect();
            let help = near
                .map_or_else(|| format!("there are {}", fields.join(", ")), |near| format!("did you mean `{near}`?"));
            self.fault(&at.member(key), format!("unknown field `{key}`; {help}"));
        }
        let mut whole = true;
        for field in shape.required.iter().filter(|field| map.get(**field).is_none_or(Value::is_null)) {
            self.fault(at, format!("`{field}` is missing"));
            whole = false;
        }
        whole.then_some(map)
    }

    fn suite(&mut self) -> Option<Suite> {
        let root = FieldPath::default();
        let document = self.document;
        let map = self.shaped(&document.value, &root, &shape::DOCUMENT)?;
        let version = map.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        if version != API_VERSION {
            self.fault(&root.member("apiVersion"), format!("version `{version}` is not known; `{API_VERSION}` is"));
            return None;
        }
        let metadata = self.shaped(map.get("metadata")?, &root.member("metadata"), &shape::METADATA)?;
        let name = self.text(metadata, "name", &root.member("metadata"))?;
        let at = root.member("spec");
        let (shape, list) = match kind(&document.value)? {
            POLICY_TEST => (&shape::TEST, "cases"),
            _ => (&shape::ASSERTIONS, "assertions"),
        };
        let spec = self.shaped(map.get("spec")?, &at, shape)?;
        let profiles = self.profiles(spec, &at).unwrap_or_default();
        let inputs = self.texts(spec, "inputs", &at);
        let mesh_config = self.text(spec, "meshConfig", &at);
        let namespace = self.text(spec, "namespace", &at);
        let at = at.member(list);
        let values = self.list(spec.get(list), &at);
        if values.is_empty() && spec.get(list).is_some_and(Value::is_array) {
            self.fault(&at, format!("`{list}` is empty: nothing would be tested"));
        }
        let mut items = Vec::new();
        for (index, value) in values.iter().enumerate() {
            items.extend(self.item(value, &at.index(index), list == "cases", &profiles));
        }
        self.names_stand_once(&items);
        let span = document.root.as_ref()?.span.clone();
        Some(Suite { name, span, inputs, mesh_config, namespace, items })
    }

    fn item(&mut self, value: &Value, at: &FieldPath, is_case: bool, profiles: &[Profile]) -> Option<Item> {
        let map = self.shaped(value, at, if is_case { &shape::CASE } else { &shape::ASSERTION })?;
        let own = self.profiles(map, at);
        let given = self.text(map, "name", at);
        let ask = if is_case { Ask::Case(self.case(map, at)?) } else { Ask::Assertion(self.assertion(map, at)?) };
        let span = self.document.node(&at.to_string())?.span.clone();
        let name = given.unwrap_or_else(|| ask.to_string());
        Some(Item { name, span, profiles: own.unwrap_or_else(|| profiles.to_vec()), ask })
    }

    /// Reports name each item, so that two of one name would hide one another.
    fn names_stand_once(&mut self, items: &[Item]) {
        for (index, item) in items.iter().enumerate() {
            if let Some(first) = items.iter().take(index).find(|other| other.name == item.name) {
                let message = format!(
                    "`{}` stands twice, first in line {}; give one of them another `name`",
                    item.name, first.span.line
                );
                self.problems.push(Problem { span: item.span.clone(), message, in_test: true });
            }
        }
    }

    /// The profiles that a mapping names; `None` if it names none.
    fn profiles(&mut self, map: &Map<String, Value>, at: &FieldPath) -> Option<Vec<Profile>> {
        Some(match self.word(map, "profile", at, shape::PROFILES)? {
            "sidecar" => vec![Profile::Sidecar],
            "ambient" => vec![Profile::Ambient],
            _ => vec![Profile::Sidecar, Profile::Ambient],
        })
    }

    /// One of a few words; `None` if it is not there or is another.
    fn word(
        &mut self,
        map: &Map<String, Value>,
        field: &str,
        at: &FieldPath,
        words: &[&'static str],
    ) -> Option<&'static str> {
        let value = map.get(field).filter(|value| !value.is_null())?;
        let word = value.as_str().and_then(|text| words.iter().copied().find(|word| *word == text));
        if word.is_none() {
            self.fault(&at.member(field), format!("{value} is none of the words of `{field}`: {}", words.join(", ")));
        }
        word
    }

    /// A text that is not empty; `None` if it is not there.
    fn text(&mut self, map: &Map<String, Value>, field: &str, at: &FieldPath) -> Option<String> {
        let value = map.get(field).filter(|value| !value.is_null())?;
        self.plain(value, &at.member(field))
    }

    fn plain(&mut self, value: &Value, at: &FieldPath) -> Option<String> {
        let text = value.as_str().filter(|text| !text.is_empty());
        if text.is_none() {
            self.fault(at, format!("{value} is not a text"));
        }
        text.map(str::to_owned)
    }

    fn texts(&mut self, map: &Map<String, Value>, field: &str, at: &FieldPath) -> Vec<String> {
        let at = at.member(field);
        let values = self.list(map.get(field), &at).iter().enumerate();
        values.filter_map(|(index, value)| self.plain(value, &at.index(index))).collect()
    }

    /// The items of a list; none if there is none.
    fn list<'v>(&mut self, value: Option<&'v Value>, at: &FieldPath) -> &'v [Value] {
        match value {
            None | Some(Value::Null) => &[],
            Some(Value::Array(items)) => items,
            Some(_) => {
                self.fault(at, "this is a list: begin each item with `- `");
                &[]
            }
        }
    }
}
