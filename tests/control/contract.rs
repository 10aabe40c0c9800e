//! The contract itself: buf's STANDARD rules, as far as they can be broken here.

use prost::Message as _;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

fn files() -> FileDescriptorSet {
    FileDescriptorSet::decode(zoneward::proto::DESCRIPTORS).unwrap()
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for (index, c) in name.char_indices() {
        if c.is_uppercase() && index > 0 {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

fn check_enum(found: &EnumDescriptorProto) {
    let prefix = format!("{}_", snake(found.name()).to_uppercase());
    for value in &found.value {
        assert!(value.name().starts_with(&prefix), "{} in {}", value.name(), found.name());
    }
    assert_eq!(found.value[0].name(), format!("{prefix}UNSPECIFIED"));
    assert_eq!(found.value[0].number(), 0);
}

fn check_message(message: &DescriptorProto) {
    for field in &message.field {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        assert!(field.name().bytes().all(plain), "{}.{}", message.name(), field.name());
    }
    message.enum_type.iter().for_each(check_enum);
    message.nested_type.iter().for_each(check_message);
}

#[test]
fn names_follow_the_standard_rules() {
    let mut requests = std::collections::HashSet::new();
    for file in files().file.iter().filter(|file| file.package().starts_with("zoneward")) {
        assert_eq!(file.package(), "zoneward.v1");
        assert!(file.name().starts_with("zoneward/v1/"));
        assert_eq!(file.syntax(), "proto3");
        file.message_type.iter().for_each(check_message);
        file.enum_type.iter().for_each(check_enum);
        for service in &file.service {
            assert!(service.name().ends_with("Service"));
            for method in &service.method {
                let name = |suffix: &str| format!(".zoneward.v1.{}{suffix}", method.name());
                assert_eq!(method.input_type(), name("Request"));
                assert_eq!(method.output_type(), name("Response"));
                assert!(requests.insert(method.input_type().to_owned()), "one request for one rpc");
            }
        }
    }
    assert_eq!(requests.len(), zoneward::proto::Rpc::ALL.len());
}

/// Additive for ever: what was published keeps its number, type and place. New lines are appended to
/// the file by hand when the contract grows.
#[test]
fn what_was_published_stays() {
    let published = include_str!("../contract.txt");
    let now = lines();
    let missing: Vec<&str> = published.lines().filter(|line| !now.iter().any(|l| l == line)).collect();
    assert!(missing.is_empty(), "gone from the contract: {missing:#?}");
    let new: Vec<&String> = now.iter().filter(|line| !published.lines().any(|l| l == *line)).collect();
    assert!(new.is_empty(), "new in the contract; add to tests/contract.txt: {new:#?}");
}

fn lines() -> Vec<String> {
    let mut out = Vec::new();
    for file in files().file.iter().filter(|file| file.package() == "zoneward.v1") {
        for message in &file.message_type {
            message_lines("", message, &mut out);
        }
        for found in &file.enum_type {
            enum_lines("", found, &mut out);
        }
        for service in &file.service {
            for method in &service.method {
                let stream = |yes: bool| if yes { "stream " } else { "" };
                out.push(format!(
                    "rpc {}.{}({}{}) {}{}",
                    service.name(),
                    method.name(),
                    stream(method.client_streaming()),
                    method.input_type(),
                    stream(method.server_streaming()),
                    method.output_type()
                ));
            }
        }
    }
    out
}

fn message_lines(outer: &str, message: &DescriptorProto, out: &mut Vec<String>) {
    let name = format!("{outer}{}", message.name());
    for field in &message.field {
        let of = if field.type_name().is_empty() {
            format!("{:?}", field.r#type())
        } else {
            field.type_name().to_owned()
        };
        out.push(format!("{name}.{} = {} {of} {:?}", field.name(), field.number(), field.label()));
    }
    for nested in &message.nested_type {
        message_lines(&format!("{name}."), nested, out);
    }
    for found in &message.enum_type {
        enum_lines(&format!("{name}."), found, out);
    }
}

fn enum_lines(outer: &str, found: &EnumDescriptorProto, out: &mut Vec<String>) {
    for value in &found.value {
        out.push(format!("{outer}{}.{} = {}", found.name(), value.name(), value.number()));
    }
}

/// Generated clients take their documentation from these comments.
#[test]
fn every_field_and_value_of_the_contract_is_explained() {
    let mut bare = Vec::new();
    for entry in std::fs::read_dir("proto/zoneward/v1").unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut before = "";
        for (index, line) in text.lines().map(str::trim).enumerate() {
            // Requests and replies are explained by their rpc.
            let is_wrapper = line.starts_with("message ")
                && line.split_whitespace().nth(1).is_some_and(|name| {
                    let name = name.trim_end_matches("{}");
                    name.ends_with("Request") || name.ends_with("Response")
                });
            let is_field =
                line.split_once(" = ").is_some_and(|(_, number)| number.starts_with(char::is_numeric));
            let is_type = ["message ", "enum ", "service ", "rpc "].iter().any(|word| line.starts_with(word));
            if (is_field || is_type) && !is_wrapper && !before.starts_with("//") {
                bare.push(format!("{}:{}: {line}", path.display(), index + 1));
            }
            before = line;
        }
    }
    assert!(bare.is_empty(), "without a comment:\n{}", bare.join("\n"));
}
