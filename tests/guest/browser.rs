//! A guest's screen in a browser that nobody here wrote.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
};

use super::{foreign::foreign_with, support::real::target, survival::booted};

#[tokio::test]
async fn chromium_shows_the_screen_and_types_into_it() {
    let novnc = target().join("novnc");
    assert!(novnc.join("digest").exists(), "noVNC is missing: run `make test`, which installs it");
    let novnc = format!("browser.novnc={}", novnc.display());
    let foreign = foreign_with(&["browser.listen=127.0.0.1:0", &novnc]).await;
    let (mut clients, uuid, _) = booted(&foreign.agent).await;
    let (link, told) = foreign.agent.vmadm_ok(&["vnc", "--browser", &uuid]);
    assert!(told.starts_with("It opens once, until "), "{told}");

    let picture = target().join("screen-in-a-browser.png");
    let _ = std::fs::remove_file(&picture);
    let mut browser = Command::new("node")
        .arg(foreign.tools.join("browser.mjs"))
        .args([link.trim(), "echo typed in $((1+1)) browsers >/dev/ttyS0"])
        .arg(&picture)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut name = String::new();
    BufReader::new(browser.stdout.take().unwrap()).read_line(&mut name).unwrap();
    assert_eq!(name.trim(), uuid, "the page says whose screen it is");
    super::support::eventually("the guest did what was typed", || {
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        async move { clients.console_log(&uuid).await.contains("typed in 2 browsers").then_some(()) }
    })
    .await;
    browser.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(browser.wait().unwrap().success());
    assert!(std::fs::metadata(picture).unwrap().len() > 5000, "not a blank page");
    clients.stop(&uuid, true).await.unwrap();
}
