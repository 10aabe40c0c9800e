//! Text that somebody else wrote, for a person to read.
//!
//! A terminal obeys some characters, and others reverse the text. A guest's metadata, a hypervisor's last
//! words or a name in a certificate can contain them, so they are shown escaped.

use std::{borrow::Cow, fmt::Write as _};

/// Whether a character is invisible: C0, C1, line separators, direction changes, and characters without
/// width, by which one name can pass for another.
#[must_use]
pub(crate) fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// Escapes a text to one line that no terminal obeys: hidden characters become `\u001b` and the like, as JSON
/// writes them.
#[must_use]
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    escape(text, is_hidden)
}

/// The same for a text of several lines.
#[must_use]
pub(crate) fn escaped_lines(text: &str) -> Cow<'_, str> {
    escape(text, |character| is_hidden(character) && !matches!(character, '\n' | '\t'))
}

fn escape(text: &str, hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if hidden(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_obeyed_is_shown() {
        assert_eq!(escaped("plain, ümläut, 日本"), "plain, ümläut, 日本");
        assert_eq!(escaped("a\x1b[31m\nb\u{9b}\u{202e}c"), "a\\u001b[31m\\u000ab\\u009b\\u202ec");
        assert_eq!(escaped_lines("a\n\tb\r\u{7f}"), "a\n\tb\\u000d\\u007f");
    }

    #[test]
    fn a_json_text_stays_one() {
        let value = serde_json::json!({"k\u{9b}": "\u{202e}\u{7f}"});
        let text = serde_json::to_string_pretty(&value).unwrap();
        assert_ne!(escaped_lines(&text), text);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped_lines(&text)).unwrap(), value);
    }
}
