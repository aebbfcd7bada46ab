//! The JSON paths of printer columns: `.a.b`, `.a[0]`, `.a[*].b`, `.a['b.c']`, `.a.b\.c`, `.a[?(@.type=="x")].b`.

use serde_json::Value;

use crate::object::text;

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(usize),
    All,
    Where { field: String, value: String },
}

/// The first value at a path; none if nothing is there or the path is not of the forms above.
pub(super) fn find(path: &str, root: &Value) -> Option<Value> {
    let mut found = vec![root];
    for step in steps(path)? {
        let mut next = Vec::new();
        for value in found {
            match &step {
                Step::Field(name) => next.extend(value.get(name)),
                Step::Index(index) => next.extend(value.get(*index)),
                Step::All => next.extend(value.as_array().into_iter().flatten()),
                Step::Where { field, value: wanted } => {
                    let items = value.as_array().into_iter().flatten();
                    next.extend(items.filter(|item| text(item, field) == wanted));
                }
            }
        }
        found = next;
    }
    found.first().map(|value| (*value).clone()).filter(|value| !value.is_null())
}

fn steps(path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = path.strip_prefix('$').unwrap_or(path);
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let (inner, after) = after.split_once(']')?;
            steps.push(bracket(inner)?);
            rest = after;
            continue;
        }
        let after = rest.strip_prefix('.')?;
        let (mut name, mut escaped, mut end) = (String::new(), false, after.len());
        for (at, character) in after.char_indices() {
            match (escaped, character) {
                (false, '\\') => escaped = true,
                (false, '.' | '[') => {
                    end = at;
                    break;
                }
                _ => {
                    name.push(character);
                    escaped = false;
                }
            }
        }
        if !name.is_empty() {
            steps.push(Step::Field(name));
        }
        rest = after.get(end..)?;
    }
    Some(steps)
}

fn bracket(inner: &str) -> Option<Step> {
    if inner == "*" {
        return Some(Step::All);
    }
    if let Some(condition) = inner.strip_prefix("?(@.").and_then(|rest| rest.strip_suffix(')')) {
        let (field, value) = condition.split_once("==")?;
        return Some(Step::Where { field: field.trim().to_owned(), value: unquoted(value.trim())?.to_owned() });
    }
    match unquoted(inner) {
        Some(name) => Some(Step::Field(name.to_owned())),
        None => inner.parse().ok().map(Step::Index),
    }
}

fn unquoted(text: &str) -> Option<&str> {
    let inner = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
    inner('\'').or_else(|| inner('"'))
}

#[cfg(test)]
mod tests {
    use super::find;
    use serde_json::json;

    #[test]
    fn paths() {
        let root = json!({"a": {"b": [1, {"c": "x"}], "d.e": 2, "n": null},
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]});
        for (path, expected) in [
            (".a.b", Some(json!([1, {"c": "x"}]))),
            (".a.b[1].c", Some(json!("x"))),
            ("$.a.b[0]", Some(json!(1))),
            (".a['d.e']", Some(json!(2))),
            (".a.d\\.e", Some(json!(2))),
            (".a.b[*].c", Some(json!("x"))),
            (".conditions[?(@.type==\"Other\")].status", Some(json!("False"))),
            (".conditions[?(@.type=='Ready')].status", Some(json!("True"))),
            (".conditions[?(@.type=='None')].status", None),
            (".a.n", None),
            (".a.x.y", None),
            (".a.b[9]", None),
            (".a.b[", None),
            ("a", None),
            (".a[x]", None),
        ] {
            assert_eq!(find(path, &root), expected, "{path}");
        }
    }
}
