//! Kubernetes `Status` errors: the one error type of this crate and the answer of the API server.
//!
//! The texts are those of the real server, since clients and people compare them.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::object::{Key, resource};

/// A Kubernetes `Status`: code, reason, message, details.
///
/// Boxed inside so that a `Result` with it stays small.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(into = "Value")]
pub struct Status(Box<Body>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Body {
    success: bool,
    code: u16,
    reason: &'static str,
    message: String,
    details: Option<Details>,
}

/// The object and the causes that a [`Status`] is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Name of the object.
    pub name: String,
    /// Group of the object.
    pub group: String,
    /// Resource (plural), for `Invalid` the kind.
    pub kind: String,
    /// Uid of the object.
    pub uid: String,
    /// What exactly is wrong.
    pub causes: Vec<Cause>,
    /// After how many seconds a client may try again.
    pub retry_after_seconds: u32,
}

/// One thing that is wrong, with the field it is wrong in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable reason, such as `FieldValueInvalid`.
    pub reason: &'static str,
    /// Text without the field path.
    pub message: String,
    /// Field path, such as `spec.rules[0].to`.
    pub field: String,
}

impl Status {
    /// A failure of any shape; the named constructors are to be preferred.
    pub fn failure(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Body { success: false, code, reason, message: message.into(), details: None }))
    }

    /// The answer to a delete that left nothing behind.
    pub fn deleted(key: &Key, uid: &str) -> Self {
        let details = Details { uid: uid.to_owned(), ..Details::of(key) };
        Self(Box::new(Body { success: true, code: 200, reason: "", message: String::new(), details: Some(details) }))
    }

    /// The end of an `exec` that went well.
    pub fn success() -> Self {
        Self(Box::new(Body { success: true, code: 200, reason: "", message: String::new(), details: None }))
    }

    /// 400: the request cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message)
    }

    /// 400: fields that do not exist, or that stand twice, under `fieldValidation=Strict`.
    ///
    /// `problems` are texts such as `unknown field "spec.rulez"`.
    pub fn strict_decoding(kind: &str, version: &str, problems: &[String]) -> Self {
        Self::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {kind}: strict decoding error: {}",
            problems.join(", ")
        ))
    }

    /// 400: an admission step refused the object.
    pub fn denied(message: impl Into<String>) -> Self {
        Self::failure(400, "", message)
    }

    /// 401: no credentials, or wrong ones.
    pub fn unauthorized() -> Self {
        Self::failure(401, "Unauthorized", "Unauthorized")
    }

    /// 403: not allowed; `why` follows `pods "x" is forbidden: `.
    pub fn forbidden(key: &Key, why: &str) -> Self {
        let subject = match key.name.as_str() {
            "" => key.resource(),
            name => format!("{} \"{name}\"", key.resource()),
        };
        Self::failure(403, "Forbidden", format!("{subject} is forbidden: {why}")).about(Details::of(key))
    }

    /// 403: a user lacks the right for a verb. `version` is not part of the text.
    pub fn forbidden_verb(user: &str, verb: &str, key: &Key) -> Self {
        let place = match &key.namespace {
            Some(namespace) => format!("in the namespace \"{namespace}\""),
            None => "at the cluster scope".to_owned(),
        };
        let why =
            format!("User \"{user}\" cannot {verb} resource \"{}\" in API group \"{}\" {place}", key.plural, key.group);
        Self::forbidden(key, &why)
    }

    /// 403: nothing new may be made in a namespace that is going away.
    pub fn namespace_terminating(key: &Key) -> Self {
        let namespace = key.namespace.as_deref().unwrap_or("");
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let cause = Cause {
            reason: "NamespaceTerminating",
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".to_owned(),
        };
        Self::forbidden(key, &why).with_causes(vec![cause])
    }

    /// 404: no such object.
    pub fn not_found(key: &Key) -> Self {
        Self::failure(404, "NotFound", format!("{} \"{}\" not found", key.resource(), key.name)).about(Details::of(key))
    }

    /// 404: no such path or resource at all.
    pub fn no_resource() -> Self {
        Self::failure(404, "NotFound", "the server could not find the requested resource").about(Details::default())
    }

    /// 405: the resource has no such verb.
    pub fn method_not_allowed() -> Self {
        Self::failure(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
            .about(Details::default())
    }

    /// 406: none of the wanted media types can be answered.
    pub fn not_acceptable(offered: &[&str]) -> Self {
        let offered = offered.join(", ");
        Self::failure(406, "NotAcceptable", format!("only the following media types are accepted: {offered}"))
    }

    /// 409: the name is taken.
    pub fn already_exists(key: &Key) -> Self {
        Self::failure(409, "AlreadyExists", format!("{} \"{}\" already exists", key.resource(), key.name))
            .about(Details::of(key))
    }

    /// 409: the object changed since the client read it.
    pub fn conflict(key: &Key) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict_because(key, why)
    }

    /// 409: a precondition of another sort failed.
    pub fn conflict_because(key: &Key, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{}\": {why}", key.resource(), key.name);
        Self::failure(409, "Conflict", message).about(Details::of(key))
    }

    /// 410: a watch or list asks for a revision that history no longer reaches back to.
    pub fn expired(asked: u64, oldest: u64) -> Self {
        Self::failure(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    /// 413: the body is larger than the bound.
    pub fn too_large(limit: usize) -> Self {
        Self::failure(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    /// 415: the body is of a type that cannot be read here.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let accepted = accepted.join(", ");
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
        Self::failure(415, "UnsupportedMediaType", message)
    }

    /// 422: the object breaks rules of its kind.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let joined = match causes.as_slice() {
            [one] => one.to_string(),
            many => format!("[{}]", many.iter().map(Cause::to_string).collect::<Vec<_>>().join(", ")),
        };
        let message = format!("{} \"{name}\" is invalid: {joined}", resource(group, kind));
        let details = Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            causes,
            ..Details::default()
        };
        Self::failure(422, "Invalid", message).about(details)
    }

    /// 422: a patch cannot be applied to the object.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::failure(422, "Invalid", message).about(Details::default())
    }

    /// 429: try again after some seconds.
    pub fn too_many_requests(message: impl Into<String>, seconds: u32) -> Self {
        let details = Details { retry_after_seconds: seconds, ..Details::default() };
        Self::failure(429, "TooManyRequests", message).about(details)
    }

    /// 500: our fault, or the world's.
    pub fn internal(why: &str) -> Self {
        let cause = Cause { reason: "", message: why.to_owned(), field: String::new() };
        Self::failure(500, "InternalError", format!("Internal error occurred: {why}")).with_causes(vec![cause])
    }

    /// 503: not ready, or shutting down.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, "ServiceUnavailable", message)
    }

    /// 504: a list asks for a revision that does not exist yet.
    pub fn revision_too_large(asked: u64, current: u64) -> Self {
        let cause = Cause {
            reason: "ResourceVersionTooLarge",
            message: "Too large resource version".to_owned(),
            field: String::new(),
        };
        let details = Details { causes: vec![cause], retry_after_seconds: 1, ..Details::default() };
        Self::failure(504, "Timeout", format!("Too large resource version: {asked}, current: {current}")).about(details)
    }

    /// A command in a container ended with another code than 0.
    pub fn exit_code(code: i32) -> Self {
        let cause = Cause { reason: "ExitCode", message: code.to_string(), field: String::new() };
        let message = format!("command terminated with non-zero exit code: exit status {code}");
        Self::failure(500, "NonZeroExitCode", message).with_causes(vec![cause])
    }

    /// Replaces the details.
    #[must_use]
    pub fn about(mut self, details: Details) -> Self {
        self.0.details = Some(details);
        self
    }

    /// Replaces the causes.
    #[must_use]
    pub fn with_causes(mut self, causes: Vec<Cause>) -> Self {
        self.0.details.get_or_insert_default().causes = causes;
        self
    }

    /// Puts words before the message.
    #[must_use]
    pub fn context(mut self, before: &str) -> Self {
        self.0.message = format!("{before}: {}", self.0.message);
        self
    }

    /// HTTP status code.
    pub const fn code(&self) -> u16 {
        self.0.code
    }

    /// Machine-readable reason.
    pub const fn reason(&self) -> &'static str {
        self.0.reason
    }

    /// Text for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What it is about.
    pub const fn details(&self) -> Option<&Details> {
        self.0.details.as_ref()
    }

    /// What exactly is wrong.
    pub fn causes(&self) -> &[Cause] {
        self.0.details.as_ref().map_or(&[], |details| details.causes.as_slice())
    }

    /// Whether it says that all went well.
    pub const fn is_success(&self) -> bool {
        self.0.success
    }

    /// The `Status` object as the server sends it.
    pub fn to_value(&self) -> Value {
        let body = &*self.0;
        let mut value = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": if body.success { "Success" } else { "Failure" },
        });
        if let Value::Object(fields) = &mut value {
            put_text(fields, "message", &body.message);
            put_text(fields, "reason", body.reason);
            if let Some(details) = &body.details {
                fields.insert("details".to_owned(), details.to_value());
            }
            if !body.success {
                fields.insert("code".to_owned(), Value::from(body.code));
            }
        }
        value
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl From<Status> for Value {
    fn from(status: Status) -> Self {
        status.to_value()
    }
}

impl Details {
    /// Details that name an object.
    pub fn of(key: &Key) -> Self {
        Self { name: key.name.clone(), group: key.group.clone(), kind: key.plural.clone(), ..Self::default() }
    }

    fn to_value(&self) -> Value {
        let mut fields = Map::new();
        put_text(&mut fields, "name", &self.name);
        put_text(&mut fields, "group", &self.group);
        put_text(&mut fields, "kind", &self.kind);
        put_text(&mut fields, "uid", &self.uid);
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(Cause::to_value).collect();
            fields.insert("causes".to_owned(), Value::Array(causes));
        }
        if self.retry_after_seconds > 0 {
            fields.insert("retryAfterSeconds".to_owned(), Value::from(self.retry_after_seconds));
        }
        Value::Object(fields)
    }
}

impl Cause {
    /// A field that must be there.
    pub fn required(field: &str, detail: &str) -> Self {
        let message = if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        Self::field("FieldValueRequired", message, field)
    }

    /// A value that breaks a rule; the value is shown as JSON.
    pub fn invalid(field: &str, value: &Value, detail: &str) -> Self {
        Self::field("FieldValueInvalid", format!("Invalid value: {value}: {detail}"), field)
    }

    /// A value outside a list of known ones.
    pub fn not_supported(field: &str, value: &Value, supported: &[String]) -> Self {
        let supported = supported.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(", ");
        let message = format!("Unsupported value: {value}: supported values: {supported}");
        Self::field("FieldValueNotSupported", message, field)
    }

    /// A value of the wrong type.
    pub fn wrong_type(field: &str, found: &str, wanted: &str) -> Self {
        let message = format!("Invalid value: \"{found}\": {field} in body must be of type {wanted}: \"{found}\"");
        Self::field("FieldValueTypeInvalid", message, field)
    }

    /// A value that stands twice where it may stand once.
    pub fn duplicate(field: &str, value: &Value) -> Self {
        Self::field("FieldValueDuplicate", format!("Duplicate value: {value}"), field)
    }

    /// A field that may not be set or changed.
    pub fn forbidden(field: &str, detail: &str) -> Self {
        Self::field("FieldValueForbidden", format!("Forbidden: {detail}"), field)
    }

    /// A reference to something that is not there.
    pub fn not_found(field: &str, value: &Value) -> Self {
        Self::field("FieldValueNotFound", format!("Not found: {value}"), field)
    }

    /// A list with too many items.
    pub fn too_many(field: &str, found: usize, limit: u64) -> Self {
        let items = if limit == 1 { "item" } else { "items" };
        let message = format!("Too many: {found}: must have at most {limit} {items}");
        Self::field("FieldValueTooMany", message, field)
    }

    /// A text that is too long.
    pub fn too_long(field: &str, limit: u64) -> Self {
        Self::field("FieldValueTooLong", format!("Too long: may not be more than {limit} bytes"), field)
    }

    /// A cause with a reason of the caller's.
    pub fn field(reason: &'static str, message: impl Into<String>, field: &str) -> Self {
        Self { reason, message: message.into(), field: field.to_owned() }
    }

    fn to_value(&self) -> Value {
        let mut fields = Map::new();
        put_text(&mut fields, "reason", self.reason);
        put_text(&mut fields, "message", &self.message);
        put_text(&mut fields, "field", &self.field);
        Value::Object(fields)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.field, self.message) }
    }
}

fn put_text(fields: &mut Map<String, Value>, name: &str, value: &str) {
    if !value.is_empty() {
        fields.insert(name.to_owned(), Value::from(value));
    }
}

#[cfg(test)]
mod tests;
