//! The agent's table of rules.

use std::{future::Future, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, process::Command, sync::Mutex};

use crate::network::{LinkError, guard};

/// How long the program may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The program that installs rules, and the agent's table. Runs are serialized and complete even if nobody
/// waits: each script is applied or refused before the next starts.
#[derive(Clone, Debug)]
pub(super) struct Nft {
    program: PathBuf,
    table: String,
    running: Arc<Mutex<()>>,
}

impl Nft {
    pub(super) fn new(program: PathBuf, table: String) -> Self {
        Self { program, table, running: Arc::default() }
    }

    pub(super) fn table(&self) -> &str {
        &self.table
    }

    /// Installs a script as one transaction: all of it, or nothing.
    pub(super) async fn apply(&self, script: &str) -> Result<(), LinkError> {
        self.run(&["-f", "-"], self.with_table(script)).await.map(drop)
    }

    /// Checks whether a script would be accepted.
    pub(super) async fn check(&self, script: &str) -> Result<(), LinkError> {
        self.run(&["-c", "-f", "-"], self.with_table(script)).await.map(drop)
    }

    fn with_table(&self, script: &str) -> String {
        format!("add table netdev {}\n{script}", self.table)
    }

    /// Returns the names of all chains in the table. Its other objects are created and removed with a chain.
    pub(super) async fn chains(&self) -> Result<Vec<String>, LinkError> {
        let nft = self.clone();
        self.alone(async move { nft.list().await }).await
    }

    /// Removes the chosen chains with their objects, and the table with the last one.
    pub(super) async fn remove(
        &self,
        chosen: impl Fn(&str) -> bool + Send + 'static,
    ) -> Result<(), LinkError> {
        let nft = self.clone();
        let remove = async move {
            let chains = nft.list().await?;
            let gone: Vec<&str> = chains.iter().map(String::as_str).filter(|name| chosen(name)).collect();
            let script = match gone.len() {
                0 => return Ok(()),
                all if all == chains.len() => format!("delete table netdev {}\n", nft.table),
                _ => guard::removal(&nft.table, &gone),
            };
            nft.execute(&["-f", "-"], &script).await.map(drop)
        };
        self.alone(remove).await
    }

    async fn list(&self) -> Result<Vec<String>, LinkError> {
        // Without the program no rule was ever installed.
        if !self.program.exists() {
            return Ok(Vec::new());
        }
        let listed = self.execute(&["-j", "list", "chains", "netdev"], "").await?;
        let ruleset: Value = serde_json::from_slice(&listed)
            .map_err(|error| LinkError::Rules(format!("nft lists what is no JSON: {error}")))?;
        let chains =
            ruleset["nftables"].as_array().into_iter().flatten().filter_map(|item| item.get("chain"));
        let ours = chains.filter(|chain| chain["table"] == self.table.as_str());
        Ok(ours.filter_map(|chain| Some(chain["name"].as_str()?.to_owned())).collect())
    }

    async fn run(&self, arguments: &'static [&'static str], input: String) -> Result<Vec<u8>, LinkError> {
        let nft = self.clone();
        self.alone(async move { nft.execute(arguments, &input).await }).await
    }

    async fn alone<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, LinkError>> + Send + 'static,
    ) -> Result<T, LinkError> {
        let running = self.running.clone();
        let work = tokio::spawn(async move {
            let _alone = running.lock().await;
            work.await
        });
        work.await.map_err(|error| LinkError::Rules(error.to_string()))?
    }

    async fn execute(&self, arguments: &[&str], input: &str) -> Result<Vec<u8>, LinkError> {
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
                // If the program does not read its input, it reports why itself.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
            drop(stdin);
        };
        let both = async { tokio::join!(write, child.wait_with_output()).1 };
        let Ok(output) = tokio::time::timeout(PATIENCE, both).await else {
            return Err(LinkError::Rules(format!("{program} did not end within {PATIENCE:?}")));
        };
        let output = output.map_err(failed)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(LinkError::Rules(format!("{program}: {}", said.lines().next().unwrap_or("no reason given"))))
    }
}
