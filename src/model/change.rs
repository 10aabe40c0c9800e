//! Changes of a VM, by path.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One property that changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// As `state` or `disks.0.size`.
    pub path: String,
    /// Absent before when `None`.
    pub old: Option<Value>,
    /// Absent now when `None`.
    pub new: Option<Value>,
    /// A value was too long for an event: it is a text, the beginning of the value's JSON.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

/// Bytes of one value of a change, and of all changes of one event together.
const MAX_VALUE: usize = 4 << 10;
const MAX_CHANGES: usize = 256 << 10;

/// Returns changes that fit into an event beside its VM: with long values cut, and with one change per
/// property if there are too many.
#[must_use]
pub(crate) fn bounded(changes: &[Change]) -> Cow<'_, [Change]> {
    let length = |value: &Option<Value>| value.as_ref().map_or(0, |value| value.to_string().len());
    let size = |change: &Change| change.path.len() + length(&change.old) + length(&change.new) + ROW;
    let total: usize = changes.iter().map(size).sum();
    if total <= MAX_CHANGES {
        return Cow::Borrowed(changes);
    }
    let shorter: Vec<Change> = changes.iter().map(cut).collect();
    if shorter.iter().map(size).sum::<usize>() <= MAX_CHANGES {
        return Cow::Owned(shorter);
    }
    // Sum up the largest properties until the rest fits.
    let mut properties: Vec<Vec<Change>> =
        shorter.chunk_by(|a, b| property(a) == property(b)).map(<[Change]>::to_vec).collect();
    let size_of = |changes: &Vec<Change>| changes.iter().map(size).sum::<usize>();
    while properties.iter().map(size_of).sum::<usize>() > MAX_CHANGES {
        let largest =
            properties.iter_mut().filter(|changes| changes.len() > 1).max_by_key(|changes| size_of(changes));
        let Some(largest) = largest else { break };
        *largest = vec![summed(largest)];
    }
    Cow::Owned(properties.concat())
}

fn property(change: &Change) -> &str {
    change.path.split('.').next().unwrap_or_default()
}

/// Sums up the changes of a property, and names the first of them.
fn summed(changes: &[Change]) -> Change {
    let keys: Vec<Value> = changes.iter().take(MAX_KEYS).map(|change| json!(change.path)).collect();
    let path = changes.first().map(property).unwrap_or_default().to_owned();
    cut(&Change { path, old: None, new: Some(Value::Array(keys)), cut: true })
}

/// Bytes of a change's overhead.
const ROW: usize = 24;
/// Paths in a summed change.
const MAX_KEYS: usize = 100;

fn cut(change: &Change) -> Change {
    let mut is_cut = change.cut;
    let mut shorten = |value: &Option<Value>| {
        let text = value.as_ref()?.to_string();
        if text.len() <= MAX_VALUE {
            return value.clone();
        }
        is_cut = true;
        let end = (0..=MAX_VALUE).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        Some(json!(format!("{}…", &text[..end])))
    };
    let (old, new) = (shorten(&change.old), shorten(&change.new));
    Change { path: change.path.clone(), old, new, cut: is_cut }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_one_event_have_a_bound() {
        let change = |path: String, size: usize| Change {
            path,
            old: Some(json!("x".repeat(size))),
            new: Some(json!("é".repeat(size))),
            cut: false,
        };
        let size = |changes: &[Change]| serde_json::to_string(changes).unwrap().len();
        let few = [change("alias".to_owned(), 100)];
        assert_eq!(*bounded(&few), few);
        let long = [change("customer_metadata.a".to_owned(), 900 << 10), change("alias".to_owned(), 1)];
        let cut = bounded(&long);
        assert!(cut[0].cut && !cut[1].cut && size(&cut) < 20 << 10, "{}", size(&cut));
        let many: Vec<_> = (0..90_000).map(|n| change(format!("customer_metadata.k{n}"), 3)).collect();
        let told = bounded(&many);
        assert_eq!((told.len(), told[0].path.as_str(), told[0].cut), (1, "customer_metadata", true));
        assert!(size(&told) < 20 << 10, "{}", size(&told));
        // What is small beside it is told in full.
        let beside: Vec<_> =
            [change("ram".to_owned(), 3)].into_iter().chain(many).chain(few.clone()).collect();
        let told = bounded(&beside);
        let paths: Vec<_> = told.iter().map(|change| (change.path.as_str(), change.cut)).collect();
        assert_eq!(paths, [("ram", false), ("customer_metadata", true), ("alias", false)]);
        assert_eq!((&told[0], &told[2]), (&beside[0], &few[0]));
    }
}
