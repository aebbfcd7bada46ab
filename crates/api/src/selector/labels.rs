//! Label selectors, as text (`app=x,tier in (a,b),!old`) and as object (`matchLabels`, `matchExpressions`).

use serde_json::Value;

use crate::names;
use crate::object::{Object, text};
use crate::status::Status;

/// Conditions on labels, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// What must hold.
    pub operator: Operator,
}

/// What must hold for the value of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Present with one of these values.
    In(Vec<String>),
    /// Absent, or present with another value.
    NotIn(Vec<String>),
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
    /// Present with a greater integer.
    GreaterThan(i64),
    /// Present with a smaller integer.
    LessThan(i64),
}

impl LabelSelector {
    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Reads the text form; the empty text selects everything.
    pub fn parse(selector: &str) -> Result<Self, Status> {
        let wrong = |why: String| {
            Status::bad_request(format!(
                "unable to parse label selector `{selector}`: {why}; write conditions such as app=x,tier in (a,b),!old"
            ))
        };
        let mut requirements = Vec::new();
        if !selector.trim().is_empty() {
            for term in terms(selector).map_err(&wrong)? {
                requirements.push(requirement(term).map_err(&wrong)?);
            }
        }
        Ok(Self { requirements, nothing: false })
    }

    /// Reads the object form. Null selects nothing, an empty object everything.
    pub fn of(selector: &Value) -> Result<Self, Status> {
        if selector.is_null() {
            return Ok(Self { requirements: Vec::new(), nothing: true });
        }
        let mut requirements = Self::exact(selector.get("matchLabels").unwrap_or(&Value::Null)).requirements;
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            requirements.push(expression_requirement(expression)?);
        }
        Ok(Self { requirements, nothing: false })
    }

    /// Equality with every pair of a mapping, as the selector of a Service has it.
    pub fn exact(labels: &Value) -> Self {
        let pairs = labels.as_object().into_iter().flatten();
        let requirements = pairs
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::In(vec![value.as_str().unwrap_or("").to_owned()]),
            })
            .collect();
        Self { requirements, nothing: false }
    }

    /// Whether it has no condition.
    pub const fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// The conditions.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether the labels of an object meet every condition.
    pub fn matches(&self, object: &Object) -> bool {
        self.matches_labels(object.at("/metadata/labels"))
    }

    /// Whether a mapping of labels meets every condition.
    pub fn matches_labels(&self, labels: &Value) -> bool {
        !self.nothing && self.requirements.iter().all(|one| one.matches(labels.get(&one.key).and_then(Value::as_str)))
    }
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.iter().any(|one| one == value)),
            Operator::NotIn(values) => value.is_none_or(|value| values.iter().all(|one| one != value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(bound) => number().is_some_and(|number| number > *bound),
            Operator::LessThan(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

/// Splits at commas outside parentheses.
fn terms(selector: &str) -> Result<Vec<&str>, String> {
    let (mut terms, mut rest) = (Vec::new(), selector);
    loop {
        let mut depth = 0_u32;
        let comma = rest.char_indices().find(|&(_, character)| {
            match character {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                _ => {}
            }
            character == ',' && depth == 0
        });
        let (term, after) = comma.map_or((rest, None), |(at, _)| {
            let (term, after) = rest.split_at(at);
            (term, after.strip_prefix(','))
        });
        if term.trim().is_empty() {
            return Err("a condition is empty".to_owned());
        }
        terms.push(term.trim());
        match after {
            Some(after) => rest = after,
            None => return Ok(terms),
        }
    }
}

fn requirement(term: &str) -> Result<Requirement, String> {
    let (key, operator) = operator(term)?;
    if let Some(wrong) = names::qualified(&key) {
        return Err(format!("`{key}` is no label key: {wrong}"));
    }
    if let Operator::In(values) | Operator::NotIn(values) = &operator {
        for value in values {
            if let Some(wrong) = names::label_value(value) {
                return Err(format!("`{value}` is no label value: {wrong}"));
            }
        }
    }
    Ok(Requirement { key, operator })
}

fn operator(term: &str) -> Result<(String, Operator), String> {
    if let Some(open) = term.strip_suffix(')') {
        let (head, values) = open.split_once('(').ok_or_else(|| format!("`{term}` has no opening parenthesis"))?;
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        let mut words = head.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => Ok((key.to_owned(), Operator::In(values))),
            (Some(key), Some("notin"), None) => Ok((key.to_owned(), Operator::NotIn(values))),
            _ => Err(format!("`{term}` needs `in` or `notin` between key and values")),
        };
    }
    let pair = |(key, value): (&str, &str)| (key.trim().to_owned(), value.trim().to_owned());
    if let Some((key, value)) = term.split_once("!=").map(pair) {
        return Ok((key, Operator::NotIn(vec![value])));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')).map(pair) {
        return Ok((key, Operator::In(vec![value])));
    }
    let integer = |value: &str| value.parse::<i64>().map_err(|_| format!("`{value}` is no integer"));
    if let Some((key, value)) = term.split_once('>').map(pair) {
        return Ok((key, Operator::GreaterThan(integer(&value)?)));
    }
    if let Some((key, value)) = term.split_once('<').map(pair) {
        return Ok((key, Operator::LessThan(integer(&value)?)));
    }
    Ok(match term.strip_prefix('!') {
        Some(key) => (key.trim().to_owned(), Operator::DoesNotExist),
        None => (term.to_owned(), Operator::Exists),
    })
}

fn expression_requirement(expression: &Value) -> Result<Requirement, Status> {
    let key = text(expression, "key");
    let listed = expression.get("values").and_then(Value::as_array).into_iter().flatten();
    let values: Vec<String> = listed.filter_map(Value::as_str).map(str::to_owned).collect();
    let operator = match (text(expression, "operator"), values.is_empty()) {
        ("In", false) => Operator::In(values),
        ("NotIn", false) => Operator::NotIn(values),
        ("Exists", true) => Operator::Exists,
        ("DoesNotExist", true) => Operator::DoesNotExist,
        ("In" | "NotIn", true) => {
            return Err(Status::bad_request(format!(
                "the expression on label `{key}` needs values; name at least one"
            )));
        }
        ("Exists" | "DoesNotExist", false) => {
            return Err(Status::bad_request(format!("the expression on label `{key}` takes no values; remove them")));
        }
        (other, _) => {
            return Err(Status::bad_request(format!(
                "\"{other}\" is not a valid label selector operator; use In, NotIn, Exists or DoesNotExist"
            )));
        }
    };
    Ok(Requirement { key: key.to_owned(), operator })
}

#[cfg(test)]
mod tests {
    use super::LabelSelector;
    use serde_json::{Value, json};

    #[test]
    fn text_form() {
        let labels = json!({"app": "x", "tier": "a", "n": "5", "empty": ""});
        for (selector, expected) in [
            ("", true),
            ("app=x", true),
            ("app==x", true),
            (" app = x , tier = a ", true),
            ("app=y", false),
            ("app!=y", true),
            ("none!=y", true),
            ("app!=x", false),
            ("tier in (a,b)", true),
            ("tier in (b, c),app", false),
            ("tier notin (b,c),app", true),
            ("tier notin (a)", false),
            ("none notin (a)", true),
            ("app", true),
            ("none", false),
            ("!none", true),
            ("!app", false),
            ("n>4", true),
            ("n>5", false),
            ("n<6", true),
            ("app<6", false),
            ("empty=", true),
            ("app=", false),
            ("tier in (a),app in (x)", true),
        ] {
            assert_eq!(LabelSelector::parse(selector).unwrap().matches_labels(&labels), expected, "{selector}");
        }
        for wrong in [",", "a,", "a b", "a in b", "in (a)", "a in (b", "a) in (b)", "=x", "a=*", "a>x", "a=b=c", "!"] {
            let status = LabelSelector::parse(wrong).unwrap_err();
            assert_eq!(status.code(), 400, "{wrong}");
            assert!(status.message().contains(&format!("`{wrong}`")));
        }
    }

    #[test]
    fn object_form() {
        let labels = json!({"app": "x", "tier": "a"});
        let matches = |selector: Value| LabelSelector::of(&selector).map(|selector| selector.matches_labels(&labels));
        assert_eq!(matches(json!(null)), Ok(false));
        assert_eq!(matches(json!({})), Ok(true));
        assert_eq!(matches(json!({"matchLabels": {"app": "x", "tier": "a"}})), Ok(true));
        assert_eq!(matches(json!({"matchLabels": {"app": "x", "tier": "b"}})), Ok(false));
        let expressions = |operator: &str, values: Value| {
            matches(json!({"matchExpressions": [{"key": "tier", "operator": operator, "values": values}]}))
        };
        assert_eq!(expressions("In", json!(["a"])), Ok(true));
        assert_eq!(expressions("NotIn", json!(["a"])), Ok(false));
        assert_eq!(expressions("Exists", json!([])), Ok(true));
        assert_eq!(expressions("DoesNotExist", json!(null)), Ok(false));
        for (operator, values) in [("In", json!([])), ("Exists", json!(["a"])), ("Like", json!(["a"]))] {
            assert_eq!(expressions(operator, values).unwrap_err().code(), 400, "{operator}");
        }
        assert!(LabelSelector::exact(&json!({"app": "x"})).matches_labels(&labels));
        assert!(LabelSelector::exact(&json!(null)).is_everything());
    }
}
