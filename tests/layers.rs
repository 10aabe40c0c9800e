//! The walls of the house: which room may use which. The picture in `src/lib.rs` shows the same for people.
//!
//! Every path in product code (tests are left out) is resolved to the module that it names. An arrow between two
//! rooms that the table does not allow fails with its file and line, and so does a circle of files inside one room. What a
//! folder's own file re-exports counts as the folder's; the programs in `src/bin` stand above all rooms, and reach them through `internals`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::{
    Attribute, Item, Macro, UseTree,
    visit::{self, Visit},
};

/// Each room, and the rooms that it may use. A room stands above all that it uses: the table is read from the ground.
const ROOMS: &[(&str, &[&str])] = &[
    ("text", &[]),
    ("tls", &[]),
    ("crash", &[]),
    ("sys", &[]),
    ("logfile", &[]),
    ("layout", &[]),
    ("spec", &["text"]),
    ("model", &["spec"]),
    ("proto", &["spec", "model"]),
    ("client", &["proto", "model", "tls"]),
    // Mechanisms: none knows another.
    ("image", &["spec", "sys"]),
    ("source", &["spec", "tls"]),
    ("zone", &["spec", "layout", "logfile", "sys", "crash"]),
    ("hypervisor", &["spec", "layout", "sys", "text"]),
    ("storage", &["spec", "layout", "crash"]),
    ("network", &["spec", "layout", "sys", "crash"]),
    ("console", &["layout", "logfile", "sys"]),
    ("metadata", &["spec", "layout", "sys"]),
    ("store", &["model", "crash"]),
    ("events", &["model", "store"]),
    (
        "boot",
        &[
            "model",
            "spec",
            "layout",
            "crash",
            "zone",
            "hypervisor",
            "image",
            "storage",
            "network",
            "console",
            "metadata",
        ],
    ),
    ("auth", &["proto", "model", "text", "tls"]),
    ("config", &["spec", "model", "layout", "zone", "hypervisor", "network", "console", "source", "auth"]),
    (
        "agent",
        &[
            "config",
            "boot",
            "events",
            "store",
            "proto",
            "model",
            "spec",
            "layout",
            "sys",
            "crash",
            "zone",
            "hypervisor",
            "image",
            "source",
            "storage",
            "network",
            "console",
            "metadata",
        ],
    ),
    ("api", &["agent", "auth", "events", "store", "proto", "model", "spec", "storage", "network", "console"]),
    ("browser", &["agent", "auth"]),
    ("doctor", &["config", "auth", "zone", "hypervisor", "network", "spec"]),
    ("probe", &["zone", "layout", "sys", "spec"]),
    ("cli", &["client", "proto", "model", "spec", "text"]),
    // What the project's own programs and tests take from the rooms that nobody else may enter.
    (
        "internals",
        &[
            "agent",
            "api",
            "auth",
            "boot",
            "browser",
            "cli",
            "config",
            "doctor",
            "hypervisor",
            "image",
            "metadata",
            "model",
            "network",
            "probe",
            "storage",
            "store",
            "zone",
        ],
    ),
];
/// The rooms that other programs may enter.
const PUBLIC: [&str; 4] = ["client", "internals", "proto", "spec"];

/// Files of the agent itself, which may use all of its rooms.
const DOORS: [&str; 4] = ["calls", "inspect", "refusals", "watch"];

/// The rooms inside `agent`, likewise.
const ROOMS_OF_THE_AGENT: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("request", &["error"]),
    ("view", &[]),
    ("context", &["error", "request", "view"]),
    ("files", &["error", "request", "context"]),
    ("image", &["error", "request", "context", "files"]),
    ("guest", &["error", "request", "view", "context"]),
    ("vm", &["error", "request", "view", "context", "files", "guest"]),
    ("host", &["error", "request", "context", "guest", "vm"]),
];

/// A use of one module by another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Arrow {
    from: Vec<String>,
    to: Vec<String>,
    place: String,
}

/// A table of rooms, and the room that a module is in.
struct Plan {
    rooms: &'static [(&'static str, &'static [&'static str])],
    room: fn(&[String]) -> Option<&str>,
}

const PLANS: [Plan; 2] = [
    Plan { rooms: ROOMS, room: |module| module.first().map(String::as_str) },
    Plan {
        rooms: ROOMS_OF_THE_AGENT,
        room: |module| match module {
            [agent, room, ..] if agent == "agent" && !DOORS.contains(&room.as_str()) => Some(room),
            _ => None,
        },
    },
];

impl Plan {
    /// The rooms that each arrow between two of them joins.
    fn crossings(&self, arrows: impl IntoIterator<Item = Arrow>) -> Vec<(String, String, String)> {
        let between = |Arrow { from, to, place }: Arrow| {
            let (from, to) = ((self.room)(&from)?.to_owned(), (self.room)(&to)?.to_owned());
            (from != to).then_some((from, to, place))
        };
        arrows.into_iter().filter_map(between).collect()
    }

    fn allows(&self, from: &str, to: &str) -> bool {
        self.rooms.iter().any(|(room, uses)| *room == from && uses.contains(&to))
    }
}

#[test]
fn rooms_use_only_what_stands_below_them() {
    let arrows = House::read().arrows();
    let crossings = PLANS.iter().flat_map(|plan| {
        let wrong = plan.crossings(arrows.clone()).into_iter();
        wrong.filter(|(from, to, _)| !plan.allows(from, to))
    });
    let wrong: BTreeSet<_> =
        crossings.map(|(from, to, place)| format!("{place}: {from} may not use {to}")).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.into_iter().collect::<Vec<_>>().join("\n"));
}

/// A right that nobody uses is one that somebody will.
#[test]
fn the_tables_allow_nothing_that_is_not_used() {
    let arrows = House::read().arrows();
    for plan in &PLANS {
        let used: BTreeSet<_> =
            plan.crossings(arrows.clone()).into_iter().map(|(from, to, _)| (from, to)).collect();
        let allowed = plan.rooms.iter().flat_map(|(room, uses)| uses.iter().map(|used| (*room, *used)));
        let idle: Vec<_> =
            allowed.filter(|(from, to)| !used.contains(&((*from).to_owned(), (*to).to_owned()))).collect();
        assert!(idle.is_empty(), "{idle:?}");
    }
}

#[test]
fn the_tables_name_each_room_once_and_from_the_ground() {
    let modules = House::read().modules;
    for plan in &PLANS {
        let mut below = BTreeSet::new();
        for (room, uses) in plan.rooms {
            for used in *uses {
                assert!(below.contains(used), "{room} uses {used}, which stands beside or above it");
            }
            assert!(below.insert(*room), "{room} stands twice in the table");
        }
        let rooms: BTreeSet<_> = modules.keys().filter_map(|module| (plan.room)(module)).collect();
        assert_eq!(rooms, below);
    }
}

#[test]
fn other_programs_may_enter_the_public_rooms_alone() {
    let file = syn::parse_file(include_str!("../src/lib.rs")).unwrap();
    let public = file.items.iter().filter_map(|item| match item {
        Item::Mod(item) if matches!(item.vis, syn::Visibility::Public(_)) => Some(item.ident.to_string()),
        _ => None,
    });
    assert_eq!(public.collect::<Vec<_>>(), PUBLIC);
}

#[test]
fn no_files_of_a_room_use_each_other_in_a_circle() {
    let mut uses: BTreeMap<Vec<String>, BTreeMap<Vec<String>, String>> = BTreeMap::new();
    for Arrow { from, to, place } in House::read().arrows() {
        // A folder's own file may name its children, which is what it is for; a child leans on it.
        let kin = from.starts_with(&to) || to.starts_with(&from);
        if from[0] == to[0] && !kin {
            uses.entry(from).or_default().insert(to, place);
        }
    }
    let mut circles = Vec::new();
    let mut done = BTreeSet::new();
    for start in uses.keys() {
        walk(start, &uses, &mut Vec::new(), &mut done, &mut circles);
    }
    assert!(circles.is_empty(), "\n{}", circles.join("\n"));
}

fn walk(
    at: &Vec<String>,
    uses: &BTreeMap<Vec<String>, BTreeMap<Vec<String>, String>>,
    path: &mut Vec<Vec<String>>,
    done: &mut BTreeSet<Vec<String>>,
    circles: &mut Vec<String>,
) {
    if let Some(begin) = path.iter().position(|earlier| earlier == at) {
        let names: Vec<_> = path[begin..].iter().chain([at]).map(|module| module.join("::")).collect();
        circles.push(names.join(" -> "));
        return;
    }
    if done.contains(at) {
        return;
    }
    path.push(at.clone());
    for next in uses.get(at).into_iter().flat_map(BTreeMap::keys) {
        walk(next, uses, path, done, circles);
    }
    path.pop();
    done.insert(at.clone());
}

/// Every module of the library with its file.
struct House {
    modules: BTreeMap<Vec<String>, PathBuf>,
}

impl House {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut house = Self { modules: BTreeMap::new() };
        house.enter(&root, &root);
        house
    }

    fn enter(&mut self, root: &Path, folder: &Path) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let inside = path.strip_prefix(root).unwrap();
            if inside.starts_with("bin") || inside == Path::new("lib.rs") {
                continue;
            }
            if path.is_dir() {
                self.enter(root, &path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let without = inside.with_extension("");
                let mut module: Vec<_> =
                    without.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
                module.pop_if(|name| name == "mod");
                self.modules.insert(module, path);
            }
        }
    }

    fn arrows(&self) -> BTreeSet<Arrow> {
        let mut arrows = BTreeSet::new();
        for (module, path) in &self.modules {
            let tests = module.last().is_some_and(|name| name == "tests")
                || module.iter().any(|name| name == "tests");
            if tests {
                continue;
            }
            let text = fs::read_to_string(path).unwrap();
            let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let mut reader = Reader { house: self, module, path, arrows: &mut arrows };
            reader.visit_file(&file);
        }
        arrows
    }

    /// The longest module that a path leads to.
    fn module_of(&self, path: &[String]) -> Option<Vec<String>> {
        (1..=path.len())
            .rev()
            .map(|len| path[..len].to_vec())
            .find(|module| self.modules.contains_key(module))
    }
}

/// Reads one file.
struct Reader<'a> {
    house: &'a House,
    module: &'a Vec<String>,
    path: &'a Path,
    arrows: &'a mut BTreeSet<Arrow>,
}

impl Reader<'_> {
    fn found(&mut self, segments: &[String], span: Span) {
        let mut base = match segments.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("super" | "self") => self.module.clone(),
            // A child, or something of another crate.
            Some(_) => {
                let mut child = self.module.clone();
                child.push(segments[0].clone());
                if !self.house.modules.contains_key(&child) {
                    return;
                }
                self.module.clone()
            }
            None => return,
        };
        for segment in segments {
            match segment.as_str() {
                "crate" | "self" => {}
                "super" => drop(base.pop()),
                name => base.push(name.to_owned()),
            }
        }
        let Some(to) = self.house.module_of(&base).filter(|to| to != self.module) else { return };
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let place = format!("{}:{}", self.path.strip_prefix(root).unwrap().display(), span.start().line);
        self.arrows.insert(Arrow { from: self.module.clone(), to, place });
    }

    fn tree(&mut self, tree: &UseTree, before: &[String]) {
        let with = |name: String| [before, &[name]].concat();
        match tree {
            UseTree::Path(path) => self.tree(&path.tree, &with(path.ident.to_string())),
            UseTree::Name(name) => self.found(&with(name.ident.to_string()), name.ident.span()),
            UseTree::Rename(name) => self.found(&with(name.ident.to_string()), name.ident.span()),
            UseTree::Glob(glob) => self.found(before, glob.star_token.spans[0]),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(tree, before)),
        }
    }

    /// Paths in what a macro is given: there they are words and colons.
    fn tokens(&mut self, tokens: TokenStream, before: &[String]) {
        let mut path: Vec<String> = before.to_vec();
        let mut colons = 0;
        let mut span = Span::call_site();
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.found(&std::mem::replace(&mut path, before.to_vec()), span);
                        span = ident.span();
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    // `crate::{a, b}`: what is inside continues what is before.
                    let before = if colons == 2 { path.clone() } else { Vec::new() };
                    self.found(&std::mem::take(&mut path), span);
                    self.tokens(group.stream(), &before);
                    colons = 0;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    self.found(&std::mem::replace(&mut path, before.to_vec()), span);
                    colons = 0;
                }
            }
        }
        self.found(&path, span);
    }
}

fn only_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string() == "test")
    })
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes: &[Attribute] = match item {
            Item::Mod(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Struct(item) => &item.attrs,
            _ => &[],
        };
        if !only_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let span = path.segments.first().map_or_else(Span::call_site, |segment| segment.ident.span());
        if segments.len() > 1 {
            self.found(&segments, span);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.tokens(call.tokens.clone(), &[]);
        visit::visit_macro(self, call);
    }
}

/// A crate that no code names is compiled for nothing.
#[test]
fn every_dependency_is_named_in_the_code() {
    let manifest: toml::Table = include_str!("../Cargo.toml").parse().unwrap();
    let mut code = String::new();
    let mut read = |path: &Path| code += &fs::read_to_string(path).unwrap();
    House::read().modules.values().for_each(|path| read(path));
    for path in [
        "src/lib.rs",
        "src/bin/zoneward/main.rs",
        "src/bin/zoneward/serve.rs",
        "src/bin/vmadm.rs",
        "build.rs",
    ] {
        read(Path::new(path));
    }
    let crates = |table: &str| manifest[table].as_table().unwrap().keys().cloned().collect::<Vec<_>>();
    let all = crates("dependencies").into_iter().chain(crates("build-dependencies"));
    let unused: Vec<_> =
        all.filter(|name| !code.contains(&format!("{}::", name.replace('-', "_")))).collect();
    assert_eq!(
        unused,
        ["tonic-prost"],
        "generated code alone names tonic-prost; remove the others from Cargo.toml"
    );
}
