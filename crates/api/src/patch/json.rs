//! JSON patch (RFC 6902).

use serde_json::Value;

use crate::object::{json_type, text};
use crate::status::Status;

/// Most operations in one patch, the real server's bound.
const OPERATIONS_MAX: usize = 10_000;
/// Deepest nesting a patch may make: the depth at which JSON bodies are refused when read.
const DEPTH_MAX: usize = 128;
/// Most bytes all `copy` operations of a patch may add, so that copies of copies end: the bound of a request body.
const COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Applies the operations in order; none takes effect if one fails.
pub fn json(document: &Value, patch: &Value) -> Result<Value, Status> {
    let operations = patch.as_array().ok_or_else(|| {
        let found = json_type(patch);
        Status::bad_request(format!("a JSON patch must be a list of operations, this is {found}"))
    })?;
    if operations.len() > OPERATIONS_MAX {
        let message = format!(
            "the allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}; send several patches",
            operations.len()
        );
        return Err(Status::failure(413, "RequestEntityTooLarge", message));
    }
    let mut document = document.clone();
    let mut copied_bytes = 0_usize;
    for (index, operation) in operations.iter().enumerate() {
        perform(&mut document, operation, &mut copied_bytes).map_err(|why| match why {
            Failure::Malformed(why) => Status::bad_request(format!("JSON patch operation {index}: {why}")),
            Failure::Inapplicable(why) => Status::unprocessable(format!("JSON patch operation {index}: {why}")),
        })?;
    }
    Ok(document)
}

enum Failure {
    Malformed(String),
    Inapplicable(String),
}

fn perform(document: &mut Value, operation: &Value, copied_bytes: &mut usize) -> Result<(), Failure> {
    let path = pointer(operation, "path")?;
    let value = || operation.get("value").cloned().ok_or_else(|| Failure::Malformed("`value` is missing".to_owned()));
    match text(operation, "op") {
        "add" => add(document, path, value()?),
        "remove" => remove(document, path).map(drop),
        "replace" => {
            let place = document.pointer_mut(path).ok_or_else(|| absent(path))?;
            *place = value()?;
            Ok(())
        }
        "move" => {
            let from = pointer(operation, "from")?;
            if path.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
                return Err(Failure::Inapplicable(format!("`{from}` cannot be moved into itself")));
            }
            let value = remove(document, from)?;
            add(document, path, value)
        }
        "copy" => {
            let from = pointer(operation, "from")?;
            let value = document.pointer(from).cloned().ok_or_else(|| absent(from))?;
            *copied_bytes = copied_bytes.saturating_add(value.to_string().len());
            if *copied_bytes > COPIED_BYTES_MAX {
                let why = format!("the copies of this patch exceed {COPIED_BYTES_MAX} bytes");
                return Err(Failure::Inapplicable(why));
            }
            add(document, path, value)
        }
        "test" => {
            let wanted = value()?;
            // As the real server has it: an absent field equals null.
            if *document.pointer(path).unwrap_or(&Value::Null) == wanted {
                return Ok(());
            }
            Err(Failure::Inapplicable(format!("testing value {path} failed: it is not {wanted}")))
        }
        other => {
            Err(Failure::Malformed(format!("`{other}` is no operation; use add, remove, replace, move, copy or test")))
        }
    }
}

fn pointer<'a>(operation: &'a Value, field: &str) -> Result<&'a str, Failure> {
    let found = operation.get(field).and_then(Value::as_str);
    found
        .filter(|pointer| pointer.is_empty() || pointer.starts_with('/'))
        .ok_or_else(|| Failure::Malformed(format!("`{field}` must be a JSON pointer such as /metadata/labels/app")))
}

fn absent(path: &str) -> Failure {
    Failure::Inapplicable(format!("there is no `{path}`"))
}

fn add(document: &mut Value, path: &str, value: Value) -> Result<(), Failure> {
    if path.matches('/').count().saturating_add(depth(&value)) > DEPTH_MAX {
        return Err(Failure::Inapplicable(format!("`{path}` would be nested deeper than {DEPTH_MAX}")));
    }
    let Some((parent, last)) = path.rsplit_once('/') else {
        *document = value;
        return Ok(());
    };
    match document.pointer_mut(parent).ok_or_else(|| absent(parent))? {
        Value::Object(fields) => {
            fields.insert(unescape(last), value);
            Ok(())
        }
        Value::Array(items) => {
            let at = if last == "-" { Some(items.len()) } else { index(last) };
            match at.filter(|&at| at <= items.len()) {
                Some(at) => {
                    items.insert(at, value);
                    Ok(())
                }
                None => Err(Failure::Inapplicable(format!("`{last}` is no index of the list `{parent}`"))),
            }
        }
        _ => Err(Failure::Inapplicable(format!("`{parent}` is neither a mapping nor a list"))),
    }
}

fn remove(document: &mut Value, path: &str) -> Result<Value, Failure> {
    let Some((parent, last)) = path.rsplit_once('/') else {
        return Err(Failure::Inapplicable("the whole document cannot be removed".to_owned()));
    };
    let removed = match document.pointer_mut(parent).ok_or_else(|| absent(path))? {
        Value::Object(fields) => fields.shift_remove(&unescape(last)),
        Value::Array(items) => index(last).filter(|&at| at < items.len()).map(|at| items.remove(at)),
        _ => None,
    };
    removed.ok_or_else(|| absent(path))
}

fn index(token: &str) -> Option<usize> {
    let canonical = token == "0" || !token.starts_with('0');
    (canonical && token.bytes().all(|byte| byte.is_ascii_digit())).then(|| token.parse().ok()).flatten()
}

fn unescape(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(depth).max().unwrap_or(0).saturating_add(1),
        Value::Object(fields) => fields.values().map(depth).max().unwrap_or(0).saturating_add(1),
        _ => 0,
    }
}
