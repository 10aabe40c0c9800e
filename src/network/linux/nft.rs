//! The agent's table of rules.

use std::{path::PathBuf, process::Stdio};

use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::network::LinkError;

/// The program that installs rules, and the table that is ours.
#[derive(Debug)]
pub(super) struct Nft {
    program: PathBuf,
    table: String,
}

/// What is in the table: the kind of object and its name.
pub(super) type Object = (&'static str, String);

/// In the order in which they can be removed: a chain uses the others.
const KINDS: [&str; 3] = ["chain", "set", "counter"];

impl Nft {
    pub(super) fn new(program: PathBuf, table: String) -> Self {
        Self { program, table }
    }

    pub(super) fn is_there(&self) -> bool {
        self.program.exists()
    }

    pub(super) fn table(&self) -> &str {
        &self.table
    }

    /// Installs a script as one transaction: all of it, or nothing.
    pub(super) async fn apply(&self, script: &str) -> Result<(), LinkError> {
        let table = format!("add table netdev {}\n", self.table);
        self.run(&["-f", "-"], &(table + script)).await.map(drop)
    }

    /// Everything in the table.
    pub(super) async fn objects(&self) -> Result<Vec<Object>, LinkError> {
        let listed = self.run(&["-j", "-t", "list", "ruleset", "netdev"], "").await?;
        let ruleset: Value = serde_json::from_slice(&listed)
            .map_err(|error| LinkError::Rules(format!("nft lists what is no JSON: {error}")))?;
        let items = ruleset["nftables"].as_array().into_iter().flatten();
        let ours = |item: &Value| {
            KINDS.iter().find_map(|kind| {
                let object = item.get(kind)?;
                let name = object["name"].as_str().filter(|_| object["table"] == self.table.as_str())?;
                Some((*kind, name.to_owned()))
            })
        };
        Ok(items.filter_map(ours).collect())
    }

    /// Removes every object that is chosen, and the table with the last one.
    pub(super) async fn remove(&self, chosen: impl Fn(&str) -> bool) -> Result<(), LinkError> {
        let all = self.objects().await?;
        let count = all.len();
        let objects: Vec<Object> = all.into_iter().filter(|(_, name)| chosen(name)).collect();
        if objects.is_empty() {
            return Ok(());
        }
        if objects.len() == count {
            return self.apply(&format!("delete table netdev {}\n", self.table)).await;
        }
        let mut script = String::new();
        for kind in KINDS {
            for (_, name) in objects.iter().filter(|(of, _)| *of == kind) {
                if kind == "chain" {
                    script += &format!("flush chain netdev {} {name}\n", self.table);
                }
                script += &format!("delete {kind} netdev {} {name}\n", self.table);
            }
        }
        self.apply(&script).await
    }

    async fn run(&self, arguments: &[&str], input: &str) -> Result<Vec<u8>, LinkError> {
        let program = self.program.display();
        let failed = |error: std::io::Error| {
            LinkError::Rules(format!("{program}: {error}; install the package nftables, or set network.nft"))
        };
        let mut child = Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let mut stdin = child.stdin.take();
        let write = async {
            if let Some(stdin) = &mut stdin {
                // One that is not read is an error of the program's, which it says itself.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
            drop(stdin);
        };
        let ((), output) = tokio::join!(write, child.wait_with_output());
        let output = output.map_err(failed)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(LinkError::Rules(format!("{program}: {}", said.lines().next().unwrap_or("it does not say why"))))
    }
}
