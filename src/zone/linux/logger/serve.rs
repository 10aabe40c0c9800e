//! The logger itself: one thread, no runtime.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SendFlags, SocketFlags},
};

use super::{
    MAX_MESSAGE, Reply, Request, SOCKET, Way,
    pipe::{Look, Pipe},
};
use crate::sys;

/// Interval between checks of pipes. A hypervisor writes byte by byte, and each byte would wake the logger: a
/// guest that floods its console would occupy a host CPU, whatever its own limits are.
const BEAT: Duration = Duration::from_millis(3);
/// Rounds of a settle, which a guest could prolong by printing on and on.
const SETTLE: u32 = 16;

/// Interval between checks that the pipes still exist, while no agent is connected.
const ALONE: std::time::Duration = std::time::Duration::from_secs(2);

/// Serves until nobody needs it; returns this program's exit code.
#[must_use]
pub fn run() -> u8 {
    let Ok(socket) = sys::inherited(SOCKET) else {
        let _ = std::io::Write::write_all(
            &mut io::stderr(),
            b"zone-logger is the agent's own; run: zoneward serve\n",
        );
        return 2;
    };
    // Leaves the agent's session: a signal to that must not end the logger.
    let _ = rustix::process::setsid();
    let _ = rustix::io::ioctl_fionbio(&socket, true);
    Server { socket, agents: Vec::new(), pipes: Vec::new(), next: Instant::now() }.serve();
    0
}

struct Server {
    socket: OwnedFd,
    agents: Vec<OwnedFd>,
    pipes: Vec<Pipe>,
    /// When pipes are checked next.
    next: Instant,
}

impl Server {
    fn serve(&mut self) {
        let mut had_agent = false;
        loop {
            had_agent |= !self.agents.is_empty();
            if had_agent && self.agents.is_empty() && self.pipes.is_empty() {
                return;
            }
            let Some((connects, asks, carries)) = self.wait() else { return };
            if self.agents.is_empty() {
                // A pipe whose folder is gone gets no more output, and nobody reads its log.
                self.pipes.retain(Pipe::is_at_its_path);
            }
            if connects {
                self.accept();
            }
            for index in asks.into_iter().rev() {
                if !self.answer(index) {
                    self.agents.swap_remove(index);
                }
            }
            if carries {
                self.pipes.retain_mut(|pipe| pipe.carry() != Look::Ended);
                self.next = Instant::now() + BEAT;
            }
        }
    }

    /// Waits for work: returns whether an agent connects, which agents ask, and whether pipes have output.
    fn wait(&self) -> Option<(bool, Vec<usize>, bool)> {
        let now = Instant::now();
        let rests = now < self.next;
        let mut polled = vec![PollFd::new(&self.socket, PollFlags::IN)];
        polled.extend(self.agents.iter().map(|agent| PollFd::new(agent, PollFlags::IN)));
        let ready = self.pipes.iter().filter(|pipe| !rests && pipe.stuck_until().is_none());
        polled.extend(ready.map(|pipe| PollFd::new(&pipe.end, PollFlags::IN)));
        let stuck = self.pipes.iter().filter_map(Pipe::stuck_until);
        let alone = self.agents.is_empty().then(|| now + ALONE);
        let until = stuck.chain(rests.then_some(self.next)).chain(alone).min();
        let limit = until.map(|until| {
            let left = until.saturating_duration_since(now);
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(1),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        match poll(&mut polled, limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return None,
        }
        let agents = self.agents.len();
        let is_ready = |polled: &PollFd<'_>| !polled.revents().is_empty();
        let asks = (0..agents).filter(|index| is_ready(&polled[1 + index])).collect();
        let due = until.is_some_and(|until| Instant::now() >= until);
        let carries = due || polled[1 + agents..].iter().any(is_ready);
        Some((is_ready(&polled[0]), asks, carries))
    }

    fn accept(&mut self) {
        while let Ok(agent) = rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC) {
            self.agents.push(agent);
        }
    }

    /// Replies; false if the agent left.
    fn answer(&mut self, index: usize) -> bool {
        let mut buffer = vec![0; MAX_MESSAGE];
        let got = match rustix::net::recv(self.agents[index].as_fd(), &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return false,
            Ok((got, _)) => got,
            Err(Errno::AGAIN | Errno::INTR) => return true,
            Err(_) => return false,
        };
        let done = match serde_json::from_slice(&buffer[..got]) {
            Ok(Request::Carry(ways)) => ways.into_iter().try_for_each(|way| self.carry(way)),
            Ok(Request::Settle(pipes)) => {
                self.settle(&pipes);
                Ok(())
            }
            Err(error) => Err(error.into()),
        };
        let reply = serde_json::to_vec(&Reply(done.err().map(|error| error.to_string()))).unwrap_or_default();
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::send(self.agents[index].as_fd(), &reply, flags).is_ok()
    }

    fn carry(&mut self, way: Way) -> io::Result<()> {
        let known = |pipe: &Pipe| pipe.way.pipe == way.pipe && pipe.is_at_its_path();
        if !self.pipes.iter().any(known) {
            let path = way.pipe.display().to_string();
            let open = Pipe::open(way);
            self.pipes.push(open.map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?);
        }
        Ok(())
    }

    /// Drains these pipes' present content.
    fn settle(&mut self, pipes: &[std::path::PathBuf]) {
        self.pipes.retain_mut(|pipe| {
            if !pipes.contains(&pipe.way.pipe) {
                return true;
            }
            let mut look = Look::Carried;
            for _ in 0..SETTLE {
                look = pipe.carry();
                if look != Look::Carried {
                    break;
                }
            }
            look != Look::Ended
        });
    }
}
