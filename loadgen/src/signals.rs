//! The signals that ask this program to end: it then finishes, reports what it has done, and closes its journal.

use std::{fmt, io};

use tokio::signal::unix::{self, SignalKind};

use crate::process::Process;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// A terminal that was closed.
    HangUp = 1,
    /// Ctrl-C.
    Interrupt = 2,
    Terminate = 15,
}

impl Signal {
    /// What a shell expects of a program that this one ended.
    pub const fn exit_code(self) -> u8 {
        128 + self as u8
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HangUp => "SIGHUP",
            Self::Interrupt => "Ctrl-C",
            Self::Terminate => "SIGTERM",
        })
    }
}

/// Hears them; from when there was first one of these, they do not kill the program any more.
pub struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hang_up: Option<unix::Signal>,
}

impl Signals {
    /// Begins to listen. Has to be called inside a runtime.
    pub fn listen() -> io::Result<Self> {
        // Whoever says `nohup` wants it to go on.
        let ignored = Process::own().ignores(Signal::HangUp as u8);
        Ok(Self {
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
            hang_up: if ignored { None } else { Some(unix::signal(SignalKind::hangup())?) },
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> Signal {
        let hang_up = async {
            match &mut self.hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
            _ = hang_up => Signal::HangUp,
        }
    }
}
