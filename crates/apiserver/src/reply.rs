//! Answers: JSON, errors as `Status` objects, warnings, times.

use std::time::Duration;

use api::Status;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WARNING};
use http::{Response, StatusCode};
use serde::Serialize;

use crate::Body;

/// Warnings beyond this many, or longer, are cut: a header block has to fit what clients read.
const WARNINGS_MAX: usize = 32;
/// Letters of one warning.
const WARNING_LETTERS_MAX: usize = 1024;

/// JSON with a status code.
pub(crate) fn json(code: StatusCode, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(text) => typed(code, "application/json", text),
        Err(error) => status(&Status::internal(&format!("the answer cannot be written as JSON: {error}"))),
    }
}

/// Text of any type with a status code.
pub(crate) fn typed(code: StatusCode, content_type: &'static str, text: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::whole(text));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Plain text with a status code.
pub(crate) fn text(code: StatusCode, text: &'static str) -> Response<Body> {
    typed(code, "text/plain; charset=utf-8", text)
}

/// The answer to a path that leads nowhere.
pub(crate) fn no_such_path() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// An error, or the news of a deletion.
pub(crate) fn status(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let value = status.to_value();
    let text = serde_json::to_vec(&value).unwrap_or_default();
    let mut response = typed(code, "application/json", text);
    let retry = value.pointer("/details/retryAfterSeconds").and_then(serde_json::Value::as_u64);
    if let Some(seconds) = retry {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Adds warnings in the order given, each once.
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    let mut told = Vec::new();
    for warning in warnings {
        if !told.contains(&warning) && told.len() < WARNINGS_MAX {
            told.push(warning);
            if let Ok(value) = HeaderValue::from_bytes(quoted(warning).as_bytes()) {
                response.headers_mut().append(WARNING, value);
            }
        }
    }
}

/// Where the time of an answer went (W3C Server Timing).
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Says what parts of the work took, in milliseconds.
pub(crate) fn time(response: &mut Response<Body>, parts: &[(&str, Duration)]) {
    let part = |(name, took): &(&str, Duration)| format!("{name};dur={:.3}", took.as_secs_f64() * 1e3);
    let text = parts.iter().map(part).collect::<Vec<_>>().join(", ");
    if let Ok(value) = HeaderValue::from_str(&text) {
        response.headers_mut().insert(SERVER_TIMING, value);
    }
}

/// A warning as RFC 7234 writes it: code, agent, quoted text.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("299 - \"");
    for letter in text.chars().take(WARNING_LETTERS_MAX) {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            letter if letter.is_control() => quoted.push(' '),
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::{SERVER_TIMING, json, time, warn};
    use std::time::Duration;

    use http::StatusCode;
    use http::header::WARNING;

    #[test]
    fn warnings_are_quoted_and_told_once() {
        let mut response = json(StatusCode::OK, &1);
        let warnings = ["unknown field \"spec.x\"", "a\\b\nc", "unknown field \"spec.x\"", "ä"].map(str::to_owned);
        warn(&mut response, &warnings);
        let told: Vec<_> = response
            .headers()
            .get_all(WARNING)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect();
        assert_eq!(told, [r#"299 - "unknown field \"spec.x\"""#, r#"299 - "a\\b c""#, "299 - \"ä\""]);
    }

    #[test]
    fn times_are_told_in_milliseconds() {
        let mut response = json(StatusCode::OK, &1);
        time(&mut response, &[("store", Duration::from_micros(2500)), ("settle", Duration::ZERO)]);
        assert_eq!(response.headers()[SERVER_TIMING], "store;dur=2.500, settle;dur=0.000");
    }
}
