//! The child's side of a single call: it is read, run and answered on the first thread, and the process ends.
//!
//! Nothing is agreed on before and nobody is connected: the parent is of the same program, sends one call, and ends the socket
//! when it does not want it any more. What the function prints goes nowhere, as nobody could read it.

use std::os::fd::OwnedFd;
use std::time::Duration;

use super::serve::{Kind, Stage, answer_to};
use super::socket::{Assembly, Socket};
use super::wire::{self, asked};
use crate::role::Role;
use crate::tasks::Tasks;
use crate::wire::Reply;
use crate::worker::crew::{all_threads, runtime_of};

/// Serves the call that waits in the socket.
pub(crate) fn serve(role: &Role, tasks: &Tasks, socket: OwnedFd, slots: usize) -> ! {
    let socket = Socket::new(socket);
    // What is wrong is told by the end of the socket.
    serve_on(&socket, tasks, slots, role.life.grace.mul_f32(0.75));
    std::process::exit(0)
}

/// What the function has left behind ends within `limit`, or with the process.
fn serve_on(socket: &Socket, tasks: &Tasks, slots: usize, limit: Duration) -> Option<()> {
    let mut received = socket.recv_blocking(&mut Assembly::default()).ok()??;
    let descriptors = std::mem::take(&mut received.descriptors);
    let asked = asked(received.bytes())?;
    let runtime = match runtime_of(slots) {
        Ok(runtime) => runtime,
        Err(error) => {
            let reason = format!("there is no runtime for the task: {error}");
            let (message, ends) = wire::reply(asked.number, &Reply::<()>::Refused(reason));
            return socket.send_blocking(&message, &ends).ok();
        }
    };
    let (message, ends) = {
        // For plain functions, which run here.
        let _entered = runtime.enter();
        let stage = Stage { runtime: runtime.handle(), kind: Kind::One { socket } };
        answer_to(tasks, &asked, descriptors, &stage)
    };
    let sent = socket.send_blocking(&message, &ends);
    drop(ends);
    // Functions that block have threads of their own; one more is this.
    if runtime.metrics().num_alive_tasks() == 0 && all_threads() <= 1 + slots {
        // To drop it would be to wait for its threads, and they have nothing to do.
        std::mem::forget(runtime);
    } else {
        runtime.shutdown_timeout(limit);
    }
    sent.ok()
}
