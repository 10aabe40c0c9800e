//! The wire form: version 1 in plain lines, version 2 in frames with length and checksum.
//!
//! A frame is `V2 <length> <crc32> <id> <command>[ <base64>]`; length and checksum cover what follows them. A
//! malformed frame is dropped like a corrupted line: its sender asks again.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// The longest line that is accepted. A value is base64-encoded twice, and a machine has at most 1 MiB.
pub const MAX_LINE: usize = 2 << 20;

/// A guest's command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read a key.
    Get(String),
    /// Set a key.
    Put(String, String),
    /// Remove a key.
    Delete(String),
    /// List the keys.
    Keys,
    /// A refusal with this message.
    Refused(String),
}

/// A parsed line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// The guest wants version 2.
    Negotiate,
    /// In version 1.
    Plain(Command),
    /// In version 2, with the guest's id.
    Framed(String, Command),
    /// A frame that is not well formed.
    Broken,
    /// An unknown line; a guest sends an empty one to resynchronize.
    Invalid,
    /// Terminal output of firmware. A reply would reach the firmware as keystrokes.
    Noise,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// This, or nothing.
    Success(String),
    /// The key has no value.
    NotFound,
    /// These words; version 1 has none.
    Failure(String),
}

/// Parses a line without its end.
#[must_use]
pub fn parse(line: &[u8]) -> Line {
    let Ok(text) = std::str::from_utf8(line) else {
        return if line.starts_with(b"V2 ") {
            Line::Broken
        } else {
            behind_noise(&String::from_utf8_lossy(line))
        };
    };
    if let Some(frame) = text.strip_prefix("V2 ") {
        return match unframe(frame) {
            Some((id, command)) => Line::Framed(id.to_owned(), command),
            None => Line::Broken,
        };
    }
    let text = text.trim_end_matches('\r');
    match text.split_once(' ') {
        Some(("NEGOTIATE", "V2")) => Line::Negotiate,
        Some(("GET", key)) if !key.is_empty() => Line::Plain(Command::Get(key.to_owned())),
        None if text == "KEYS" => Line::Plain(Command::Keys),
        _ if line.iter().any(u8::is_ascii_control) => behind_noise(text),
        _ => Line::Invalid,
    }
}

/// UEFI uses the port as a terminal until a system runs. Its last line has no end, so the guest's first request follows
/// on that line. A frame is recognized by its checksum.
fn behind_noise(text: &str) -> Line {
    let frame = text.rfind("V2 ").and_then(|at| unframe(text.get(at + 3..)?));
    match frame {
        Some((id, command)) => Line::Framed(id.to_owned(), command),
        None if text.ends_with("NEGOTIATE V2") => Line::Negotiate,
        None => Line::Noise,
    }
}

fn unframe(frame: &str) -> Option<(&str, Command)> {
    let (length, rest) = frame.split_once(' ')?;
    let (sum, body) = rest.split_once(' ')?;
    let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    if length.parse() != Ok(body.len()) || sum.len() != 8 || !is_hex(sum) {
        return None;
    }
    if u32::from_str_radix(sum, 16) != Ok(crc32fast::hash(body.as_bytes())) {
        return None;
    }
    let (id, command) = body.split_once(' ')?;
    if !is_hex(id) || id.len() > 32 {
        return None;
    }
    let (name, payload) = command.split_once(' ').unwrap_or((command, ""));
    Some((id, command_of(name, payload)))
}

fn command_of(name: &str, payload: &str) -> Command {
    let key = || Some(decode(payload)?).filter(|key| !key.is_empty());
    let parsed = match name {
        "KEYS" => Some(Command::Keys),
        "GET" => key().map(Command::Get),
        "DELETE" => key().map(Command::Delete),
        "PUT" => decode(payload).and_then(|pair| {
            let (key, value) = pair.split_once(' ')?;
            let key = decode(key).filter(|key| !key.is_empty())?;
            Some(Command::Put(key, decode(value)?))
        }),
        _ => Some(Command::Refused(format!("Unknown command {name}"))),
    };
    parsed.unwrap_or_else(|| Command::Refused(format!("Invalid {name} Request")))
}

fn decode(text: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(text).ok()?).ok()
}

/// Encodes a reply in version 1.
#[must_use]
pub fn plain(reply: &Reply) -> String {
    match reply {
        Reply::Success(value) => {
            let mut text = "SUCCESS\n".to_owned();
            for line in value.split('\n').filter(|_| !value.is_empty()) {
                if line.starts_with('.') {
                    text.push('.');
                }
                text.push_str(line);
                text.push('\n');
            }
            text.push_str(".\n");
            text
        }
        Reply::NotFound => "NOTFOUND\n".to_owned(),
        Reply::Failure(_) => "FAILURE\n".to_owned(),
    }
}

/// Encodes a reply in version 2.
#[must_use]
pub fn framed(id: &str, reply: &Reply) -> String {
    let (code, payload) = match reply {
        Reply::Success(value) => ("SUCCESS", value.as_str()),
        Reply::NotFound => ("NOTFOUND", ""),
        Reply::Failure(words) => ("FAILURE", words.as_str()),
    };
    let mut body = format!("{id} {code}");
    if !payload.is_empty() {
        body.push(' ');
        STANDARD.encode_string(payload, &mut body);
    }
    format!("V2 {} {:08x} {body}\n", body.len(), crc32fast::hash(body.as_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn get(key: &str) -> Command {
        Command::Get(key.to_owned())
    }

    /// What OVMF and GRUB leave on the port.
    #[test]
    fn a_request_is_found_behind_a_terminals_output() {
        for noise in ["\x1b[2J\x1b[01;01H", "\x1b[0m\x1b[37mBooting in blind mode\r", "\x1b[=3hV2 5 x"] {
            let line = format!("{noise}V2 13 f29aef38 00000001 KEYS");
            assert_eq!(
                parse(line.as_bytes()),
                Line::Framed("00000001".to_owned(), Command::Keys),
                "{line:?}"
            );
            assert_eq!(parse(format!("{noise}NEGOTIATE V2").as_bytes()), Line::Negotiate);
            assert_eq!(parse(noise.as_bytes()), Line::Noise);
        }
        assert_eq!(parse(b"BdsDxe: loading Boot0001\r"), Line::Noise);
        assert_eq!(parse(b"\r"), Line::Noise);
        assert_eq!(parse(b"\xc9\xcd\xbb"), Line::Noise);
        assert_eq!(parse(b"hello"), Line::Invalid);
        assert_eq!(parse(b""), Line::Invalid);
    }

    /// Frames that other implementations made.
    #[test]
    fn known_frames() {
        for (line, id, command) in [
            ("V2 25 6efeea63 12345678 GET c2RjOnV1aWQ=", "12345678", get("sdc:uuid")),
            ("V2 13 f29aef38 00000001 KEYS", "00000001", Command::Keys),
            (
                "V2 25 bb16d295 0badcafe PUT Wm05diBZbUZ5",
                "0badcafe",
                Command::Put("foo".to_owned(), "bar".to_owned()),
            ),
            ("V2 20 2b572e20 0badcafe DELETE Zm9v", "0badcafe", Command::Delete("foo".to_owned())),
        ] {
            assert_eq!(parse(line.as_bytes()), Line::Framed(id.to_owned(), command), "{line}");
        }
        let ok = |value: &str| Reply::Success(value.to_owned());
        for (line, id, reply) in [
            ("V2 21 265ae1d8 dc4fae17 SUCCESS W10=\n", "dc4fae17", ok("[]")),
            ("V2 17 6905aba3 a1b2c3d4 NOTFOUND\n", "a1b2c3d4", Reply::NotFound),
            ("V2 21 90065164 0badcafe SUCCESS T0s=\n", "0badcafe", ok("OK")),
            (
                "V2 65 affa9388 0badcafe FAILURE Q2Fubm90IHVwZGF0ZSB0aGUgInNkYyIgTmFtZXNwYWNlLg==\n",
                "0badcafe",
                Reply::Failure("Cannot update the \"sdc\" Namespace.".to_owned()),
            ),
        ] {
            assert_eq!(framed(id, &reply), line);
        }
    }

    #[test]
    fn frames_that_are_not_whole_are_dropped() {
        let body = "0badcafe GET Zm9v";
        let frame = |length: usize, body: &str| {
            format!("V2 {length} {:08x} {body}", crc32fast::hash(body.as_bytes()))
        };
        assert_eq!(parse(frame(17, body).as_bytes()), Line::Framed("0badcafe".to_owned(), get("foo")));
        for line in [
            frame(16, body),
            frame(usize::MAX, body),
            frame(4, "GET "),
            frame(8, "zz KEYS."),
            frame(17, body).replace("Zm9v", "Zm9w"),
            "V2 ".to_owned(),
            "V2 17 17 0badcafe GET Zm9v".to_owned(),
            "V2 -1 f29aef38 00000001 KEYS".to_owned(),
        ] {
            assert_eq!(parse(line.as_bytes()), Line::Broken, "{line}");
        }
        assert_eq!(parse(b"V2 \xff"), Line::Broken);
    }

    #[test]
    fn what_is_no_request_is_refused_by_name() {
        let framed =
            |body: &str| format!("V2 {} {:08x} {body}", body.len(), crc32fast::hash(body.as_bytes()));
        for (command, words) in [
            ("GET", "Invalid GET Request"),
            ("GET !", "Invalid GET Request"),
            ("PUT Zm9v", "Invalid PUT Request"),
            ("DELETE", "Invalid DELETE Request"),
            ("REBOOT now", "Unknown command REBOOT"),
        ] {
            let Line::Framed(_, refused) = parse(framed(&format!("1 {command}")).as_bytes()) else {
                panic!("{command}")
            };
            assert_eq!(refused, Command::Refused(words.to_owned()), "{command}");
        }
    }

    #[test]
    fn version_1() {
        assert_eq!(parse(b"GET sdc:uuid"), Line::Plain(get("sdc:uuid")));
        assert_eq!(parse(b"KEYS\r"), Line::Plain(Command::Keys));
        assert_eq!(parse(b"NEGOTIATE V2"), Line::Negotiate);
        for line in ["", "NEGOTIATE V3", "GET ", "GET", "PUT a b", "hello"] {
            assert_eq!(parse(line.as_bytes()), Line::Invalid, "{line}");
        }
        let lines = plain(&Reply::Success("a\n.b\n\n..".to_owned()));
        assert_eq!(lines, "SUCCESS\na\n..b\n\n...\n.\n");
        assert_eq!(plain(&Reply::Success(String::new())), "SUCCESS\n.\n");
        assert_eq!(plain(&Reply::Failure("x".to_owned())), "FAILURE\n");
    }

    proptest! {
        #[test]
        fn no_line_does_harm(line: Vec<u8>) {
            let _ = parse(&line);
            let _ = parse(&[b"V2 ", line.as_slice()].concat());
        }

        #[test]
        fn a_reply_is_one_line_with_its_sum(id in "[0-9a-f]{1,32}", value in "(?s).{0,200}") {
            let line = framed(&id, &Reply::Success(value));
            prop_assert_eq!(line.matches('\n').count(), 1);
            let rest = line.trim_end().splitn(4, ' ').collect::<Vec<_>>();
            prop_assert_eq!(rest[1].parse::<usize>().unwrap(), rest[3].len());
            prop_assert_eq!(u32::from_str_radix(rest[2], 16).unwrap(), crc32fast::hash(rest[3].as_bytes()));
        }
    }
}
