//! The meaning of keys.
//!
//! | key | stands for | the guest may |
//! |---|---|---|
//! | `sdc:…` | the machine | read |
//! | `<namespace>:…`, declared by `internal_metadata_namespaces` | `internal_metadata` | read |
//! | `…_pw` | `internal_metadata` | read, write |
//! | everything else | `customer_metadata` | read, write |

use serde_json::Value;

/// The target of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route<'k> {
    /// A fact about the machine, without the prefix.
    Machine(&'k str),
    /// A key of metadata.
    Metadata {
        /// Its kind.
        place: Place,
        /// The namespace that keeps the guest from writing.
        namespace: Option<&'k str>,
    },
}

/// A kind of metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `customer_metadata`.
    Customer,
    /// `internal_metadata`.
    Internal,
}

/// The answer for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// This.
    Value(String),
    /// No value.
    NotFound,
    /// A value without a text form.
    Nested,
}

/// Routes `key` on a machine with these namespaces.
#[must_use]
pub fn route<'k>(key: &'k str, namespaces: &[String]) -> Route<'k> {
    if let Some(name) = key.strip_prefix("sdc:") {
        return Route::Machine(name);
    }
    let namespace = key.split_once(':').map(|(prefix, _)| prefix);
    let namespace = namespace.filter(|prefix| namespaces.iter().any(|known| known == prefix));
    let internal = namespace.is_some() || key.ends_with("_pw");
    let place = if internal { Place::Internal } else { Place::Customer };
    Route::Metadata { place, namespace }
}

impl Answer {
    /// Returns a flat object's value as text.
    #[must_use]
    pub(crate) fn of(value: Option<&Value>) -> Self {
        match value {
            None | Some(Value::Null) => Self::NotFound,
            Some(Value::String(text)) => Self::Value(text.clone()),
            Some(value @ (Value::Bool(_) | Value::Number(_))) => Self::Value(value.to_string()),
            Some(Value::Array(_) | Value::Object(_)) => Self::Nested,
        }
    }

    /// Returns a structured value as JSON.
    #[must_use]
    pub(crate) fn json(value: &Value) -> Self {
        Self::Value(value.to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn routes() {
        let namespaces = ["cm".to_owned()];
        let to = |key| route(key, &namespaces);
        let metadata = |place, namespace| Route::Metadata { place, namespace };
        assert_eq!(to("sdc:uuid"), Route::Machine("uuid"));
        assert_eq!(to("user-script"), metadata(Place::Customer, None));
        assert_eq!(to("root_pw"), metadata(Place::Internal, None));
        assert_eq!(to("cm:x"), metadata(Place::Internal, Some("cm")));
        assert_eq!(to("other:x"), metadata(Place::Customer, None));
        assert_eq!(to("cloud-init:user-data"), metadata(Place::Customer, None));
    }

    #[test]
    fn texts() {
        assert_eq!(Answer::of(Some(&json!(7))), Answer::Value("7".to_owned()));
        assert_eq!(Answer::of(Some(&json!(true))), Answer::Value("true".to_owned()));
        assert_eq!(Answer::of(Some(&json!(""))), Answer::Value(String::new()));
        assert_eq!(Answer::of(Some(&json!([1]))), Answer::Nested);
        assert_eq!(Answer::of(None), Answer::NotFound);
    }
}
