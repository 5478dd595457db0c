//! How a listening socket is made, by the program's options and the operator's in the address text.

use std::fmt;
use std::sync::Arc;

use rustix::io::Errno;

use crate::address::{Address, Setting, Spec};
use crate::error::Result;

/// An option that is on, off, or left to oyez.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Switch {
    /// What a good server does.
    #[default]
    Default,
    /// On.
    On,
    /// Off.
    Off,
}

impl Switch {
    /// The switch where this is the default.
    pub fn or(self, default: bool) -> bool {
        match self {
            Switch::Default => default,
            Switch::On => true,
            Switch::Off => false,
        }
    }
}

/// A function that sees each socket before it is bound: `None` to go on, or an errno.
#[derive(Clone)]
pub struct BeforeBind<'a>(Arc<dyn Fn(i32) -> Option<i32> + 'a>);

impl<'a> BeforeBind<'a> {
    /// This function.
    pub fn new(hook: impl Fn(i32) -> Option<i32> + 'a) -> Self {
        Self(Arc::new(hook))
    }

    /// Calls it with a descriptor.
    pub fn call(&self, fd: i32) -> std::result::Result<(), Errno> {
        (self.0)(fd).map_or(Ok(()), |errno| Err(Errno::from_raw_os_error(errno)))
    }
}

impl fmt::Debug for BeforeBind<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("BeforeBind")
    }
}

/// What `include/oyez.h` documents as `oyez_listen_options`; `None` is the default.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Options<'a> {
    pub backlog: Option<i32>,
    pub reuse_address: Switch,
    pub reuse_port: Switch,
    pub nonblocking: Switch,
    pub close_on_exec: Switch,
    pub no_delay: Switch,
    pub keep_alive_seconds: Option<i32>,
    pub defer_accept_seconds: Option<i32>,
    pub fast_open: Option<i32>,
    pub receive_buffer: Option<i32>,
    pub send_buffer: Option<i32>,
    pub free_bind: Switch,
    pub multipath: Switch,
    pub unix_mode: Option<i32>,
    pub interface: Option<&'a [u8]>,
    pub unix_user: Option<&'a [u8]>,
    pub unix_group: Option<&'a [u8]>,
    pub before_bind: Option<BeforeBind<'a>>,
}

impl<'a> Options<'a> {
    /// These options with what the address text sets.
    pub fn with_settings(&self, spec: &Spec<'a>) -> Result<Self> {
        let mut options = self.clone();
        for setting in spec.settings.iter() {
            options.set(spec, &setting)?;
        }
        Ok(options)
    }

    /// An operator's option that cannot have an effect is a mistake. (A program's struct may be for several addresses.)
    fn check_kind(&self, spec: &Spec<'a>, setting: &Setting<'a>) -> Result<()> {
        const OF_FILES: [&str; 3] = ["unix_mode", "unix_user", "unix_group"];
        const OF_NETWORKS: [&str; 7] = [
            "no_delay",
            "keep_alive_seconds",
            "defer_accept_seconds",
            "fast_open",
            "free_bind",
            "multipath",
            "interface",
        ];
        let is_file = matches!(spec.address, Address::UnixPath(_));
        let is_network = matches!(spec.address, Address::Tcp(_) | Address::Udp(_));
        if OF_FILES.contains(&setting.name) && !is_file {
            return Err(spec.fault_at_name(setting, format_args!("no such option here; it is for `unix:/path`")));
        }
        if OF_NETWORKS.contains(&setting.name) && !is_network {
            return Err(spec.fault_at_name(setting, format_args!("no such option here; it is for TCP and UDP")));
        }
        Ok(())
    }

    fn set(&mut self, spec: &Spec<'a>, setting: &Setting<'a>) -> Result<()> {
        let number = |lowest, highest| number(spec, setting, lowest, highest);
        let switch = || switch(spec, setting);
        self.check_kind(spec, setting)?;
        match setting.name {
            "backlog" => self.backlog = number(1, i32::MAX)?,
            "reuse_address" => self.reuse_address = switch()?,
            "reuse_port" => self.reuse_port = switch()?,
            "nonblocking" => self.nonblocking = switch()?,
            "close_on_exec" => self.close_on_exec = switch()?,
            "no_delay" => self.no_delay = switch()?,
            "keep_alive_seconds" => self.keep_alive_seconds = number_or_off(spec, setting, 32767, None)?,
            "defer_accept_seconds" => self.defer_accept_seconds = number_or_off(spec, setting, i32::MAX, Some(1))?,
            "fast_open" => self.fast_open = number_or_off(spec, setting, i32::MAX, Some(1))?,
            "receive_buffer" => self.receive_buffer = number(1, i32::MAX)?,
            "send_buffer" => self.send_buffer = number(1, i32::MAX)?,
            "free_bind" => self.free_bind = switch()?,
            "multipath" => self.multipath = switch()?,
            "unix_mode" => self.unix_mode = Some(mode(spec, setting)?),
            "interface" => self.interface = Some(text(spec, setting)?),
            "unix_user" => self.unix_user = Some(text(spec, setting)?),
            "unix_group" => self.unix_group = Some(text(spec, setting)?),
            _ => return Err(spec.fault_at_name(setting, format_args!("an option; {KNOWN}"))),
        }
        Ok(())
    }
}

const KNOWN: &str = "known are backlog, reuse_address, reuse_port, nonblocking, close_on_exec, no_delay, \
                     keep_alive_seconds, defer_accept_seconds, fast_open, receive_buffer, send_buffer, free_bind, \
                     multipath, unix_mode, interface, unix_user, unix_group";

fn switch(spec: &Spec<'_>, setting: &Setting<'_>) -> Result<Switch> {
    match setting.value {
        "on" => Ok(Switch::On),
        "off" => Ok(Switch::Off),
        "default" => Ok(Switch::Default),
        _ => Err(spec.fault_at_value(setting, format_args!("`on`, `off` or `default`"))),
    }
}

/// A plain number; 0 and `default` are the default. 010 is ten to some and eight to others, and beside a file mode both
/// could be meant.
fn number(spec: &Spec<'_>, setting: &Setting<'_>, lowest: i32, highest: i32) -> Result<Option<i32>> {
    if matches!(setting.value, "0" | "default") {
        return Ok(None);
    }
    plain(setting.value, 10)
        .filter(|_| !setting.value.starts_with('0'))
        .filter(|number| (lowest..=highest).contains(number))
        .map(Some)
        .ok_or_else(|| spec.fault_at_value(setting, format_args!("a plain number from {lowest} to {highest}")))
}

/// A number that may also be switched off, or on with what `on` means.
fn number_or_off(spec: &Spec<'_>, setting: &Setting<'_>, highest: i32, on: Option<i32>) -> Result<Option<i32>> {
    match setting.value {
        "off" => Ok(Some(-1)),
        "on" => Ok(on),
        _ => number(spec, setting, 1, highest),
    }
}

fn mode(spec: &Spec<'_>, setting: &Setting<'_>) -> Result<i32> {
    plain(setting.value, 8)
        .filter(|mode| (1..=0o7777).contains(mode))
        .ok_or_else(|| spec.fault_at_value(setting, format_args!("a file mode in octal, such as 0660")))
}

/// Digits alone: no sign, no space.
fn plain(text: &str, radix: u32) -> Option<i32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    i32::from_str_radix(text, radix).ok().filter(|_| digits)
}

fn text<'a>(spec: &Spec<'_>, setting: &Setting<'a>) -> Result<&'a [u8]> {
    if setting.value.is_empty() {
        return Err(spec.fault_at_value(setting, format_args!("a name")));
    }
    Ok(setting.value.as_bytes())
}
