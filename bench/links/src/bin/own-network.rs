//! A network of one's own: `own-network PROGRAM ARGUMENT…` becomes the program in a network namespace in which there is nothing but
//! loopback: no firewall's rules, no address of the machine's, and the congestion control that kernels come with, whatever the
//! machine has been set to (BBR, where a machine uses it, paces loopback like a long line, which costs a third of the processor
//! time of a fast transfer). The program finds what became of it in `PILOTLIGHT_BENCH_NETWORK`: where the kernel refuses, it runs
//! in the machine's network.

use std::ffi::OsString;
use std::io;
use std::mem::zeroed;
use std::os::unix::process::CommandExt;
use std::process::{Command, exit};

const CONGESTION_CONTROL: &str = "cubic";
const SETTING: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

fn main() {
    let mut args = std::env::args_os().skip(1);
    let Some(program) = args.next() else {
        eprintln!("own-network PROGRAM ARGUMENT…");
        exit(2);
    };
    // SAFETY: no pointers; this process has one thread.
    let network = match check(unsafe { libc::unshare(libc::CLONE_NEWNET) }) {
        Ok(_) => furnish(),
        Err(error) => format!("the machine's, {}: {error}", current()),
    };
    let failed = Command::new(&program)
        .args(args.collect::<Vec<OsString>>())
        .env("PILOTLIGHT_BENCH_NETWORK", network)
        .exec();
    eprintln!("own-network: {}: {failed}", program.to_string_lossy());
    exit(127);
}

fn current() -> String {
    std::fs::read_to_string(SETTING).map_or_else(|_| "unknown".into(), |text| text.trim().into())
}

/// The new network, and what it is. Without loopback nothing would run in it; without the setting it is only slower.
fn furnish() -> String {
    if let Err(error) = bring_up(b"lo") {
        eprintln!("own-network: loopback cannot be brought up: {error}");
        exit(1);
    }
    match std::fs::write(SETTING, CONGESTION_CONTROL) {
        Ok(()) => format!("its own, {CONGESTION_CONTROL}"),
        Err(error) => format!("its own, {}: {error}", current()),
    }
}

/// As netdevice(7) has it.
fn bring_up(interface: &[u8]) -> io::Result<()> {
    // SAFETY: a plain structure of C, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: no pointers.
    let socket =
        check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: `request` lives through the call, which reads it.
    let outcome = check(unsafe { libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request) });
    // SAFETY: a descriptor that was just opened.
    unsafe { libc::close(socket) };
    outcome.map(|_| ())
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
