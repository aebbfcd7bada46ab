//! YAML to JSON values, as much as test files need.

use granit_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

/// All documents of a stream; empty ones are left out.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let mut loader = Loader { events: Parser::new_from_str(text) };
    let mut documents = Vec::new();
    while let Some(event) = loader.next() {
        if let Event::DocumentStart(..) = event
            && let Some(value) = loader.node()
            && !value.is_null()
        {
            documents.push(value);
        }
    }
    documents
}

struct Loader<'a> {
    events: Parser<'a, granit_parser::StrInput<'a>>,
}

impl<'a> Loader<'a> {
    fn next(&mut self) -> Option<Event<'a>> {
        loop {
            match self.events.next_event()?.unwrap().0 {
                Event::Comment(..) => {}
                event => return Some(event),
            }
        }
    }

    /// A node, or nothing at the end of what holds it.
    fn node(&mut self) -> Option<Value> {
        Some(match self.next()? {
            Event::Scalar(text, style, _, _) => scalar(&text, style),
            Event::SequenceStart(..) => Value::Array(std::iter::from_fn(|| self.node()).collect()),
            Event::MappingStart(..) => {
                let mut map = Map::new();
                while let Some(key) = self.node() {
                    let key = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
                    map.insert(key, self.node().unwrap());
                }
                Value::Object(map)
            }
            Event::SequenceEnd | Event::MappingEnd | Event::DocumentEnd | Event::StreamEnd => return None,
            other => panic!("the test loader does not know {other:?}"),
        })
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::String(text.to_owned());
    }
    match text {
        "" | "~" | "null" => Value::Null,
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => match text.parse::<i64>() {
            Ok(number) => Value::Number(number.into()),
            Err(_) if text.starts_with(|c: char| c.is_ascii_digit()) && text.matches('.').count() == 1 => text
                .parse()
                .ok()
                .and_then(Number::from_f64)
                .map_or_else(|| Value::String(text.to_owned()), Value::Number),
            Err(_) => Value::String(text.to_owned()),
        },
    }
}
