//! Which backend an event server has.

use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

use super::super::options::Backend;
use super::super::{Level, Options, Server};
use crate::error::{Code, Error, Result};
use crate::sys::ring::{self, Refusal, Ring};

/// The variable that decides where the program does not.
const VARIABLE: &str = "OYEZ_BACKEND";

/// What was decided.
#[derive(Clone, Copy, Debug)]
pub enum Choice {
    /// epoll(7). Where io_uring(7) would have been taken, why it was not.
    Epoll(Option<Refusal>),
    /// io_uring(7). Whether it has to be that.
    IoUring(bool),
}

/// Decides for a server with these options.
pub fn choose(options: &Options) -> Result<Choice> {
    const FUNCTION: &str = "oyez_server_new_events";
    let asked = match options.backend {
        Backend::Auto => from_environment(FUNCTION)?,
        asked => asked,
    };
    if asked == Backend::Epoll {
        // In a sandbox that kills whoever calls io_uring this has to be able to do without.
        return Ok(Choice::Epoll(None));
    }
    match (asked, ring::probe()) {
        (Backend::Auto | Backend::Epoll, Err(refusal)) => Ok(Choice::Epoll(Some(refusal))),
        (Backend::Auto, Ok(())) if !ring::is_sound() => {
            Ok(Choice::Epoll(Some(Refusal { step: "io_uring", errno: Errno::OPNOTSUPP })))
        }
        (Backend::IoUring, Err(refusal)) => Err(refused(FUNCTION, refusal)),
        (asked, Ok(())) => Ok(Choice::IoUring(asked == Backend::IoUring)),
    }
}

fn from_environment(function: &'static str) -> Result<Backend> {
    let Some(value) = std::env::var_os(VARIABLE) else { return Ok(Backend::Auto) };
    match value.as_bytes() {
        b"" | b"auto" => Ok(Backend::Auto),
        b"epoll" => Ok(Backend::Epoll),
        b"io_uring" => Ok(Backend::IoUring),
        other => {
            let cause = format_args!("{VARIABLE} is \"{}\"", other.escape_ascii());
            Err(Error::invalid(function, cause).hint(format_args!("it may be epoll, io_uring or auto")))
        }
    }
}

fn refused(function: &'static str, refusal: Refusal) -> Error {
    let Refusal { step, errno } = refusal;
    Error::system(function, errno)
        .with_code(Code::Unsupported)
        .because(format_args!("io_uring cannot be had: {step} failed{}", ring::why(refusal)))
        .hint(format_args!(
            "leave the backend to oyez (OYEZ_BACKEND_AUTO), which takes epoll where io_uring is refused"
        ))
}

impl Server {
    /// Makes rings for all loops, if the server has that backend: a thread that runs a loop takes and enables its own.
    pub(in super::super) fn make_rings(&self) -> Result<()> {
        let required = match self.backend() {
            None | Some(Choice::Epoll(None)) => return Ok(()),
            Some(Choice::Epoll(Some(refusal))) => {
                self.report_no_ring(refusal);
                return Ok(());
            }
            Some(Choice::IoUring(required)) => required,
        };
        for lane in self.lanes() {
            let Refusal { step, errno } = match Ring::new() {
                Ok(ring) => {
                    lane.keep_ring(Some(ring));
                    continue;
                }
                Err(refusal) => refusal,
            };
            // All or none, so that a server is not half as fast for no visible reason.
            self.drop_rings();
            if required {
                return Err(crate::diagnose::for_limits(Error::system(step, errno)));
            }
            self.report_no_ring(Refusal { step, errno });
            break;
        }
        Ok(())
    }

    /// Lets go of rings that no thread has taken.
    pub(in super::super) fn drop_rings(&self) {
        self.lanes().iter().for_each(|lane| lane.keep_ring(None));
    }

    /// Reports that epoll is used although io_uring was wanted.
    fn report_no_ring(&self, refusal: Refusal) {
        let Refusal { step, errno } = refusal;
        let error = Error::system(step, errno);
        let why = ring::why(refusal);
        self.report(Level::Info, c"io_uring_refused", format_args!("epoll is used, io_uring is refused: {error}{why}"));
    }
}
