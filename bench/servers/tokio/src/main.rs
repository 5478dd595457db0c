//! An echo server on tokio: one thread, and for each connection a task with its buffer, as its programs have it.
//! Its arguments are those of `../server.h`.

use std::error::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, UnixListener};

const BUFFER: usize = 64 * 1024;
const BACKLOG: u32 = 4096;

async fn serve(mut client: impl AsyncRead + AsyncWrite + Unpin, line: bool) {
    let mut buffer = Vec::with_capacity(BUFFER);
    while client.read_buf(&mut buffer).await.is_ok_and(|got| got > 0) {
        if client.write_all(&buffer).await.is_err() || (line && buffer.contains(&b'\n')) {
            break;
        }
        buffer.clear();
    }
}

async fn run(line: bool, unix: Option<String>) -> Result<(), Box<dyn Error>> {
    if let Some(path) = unix {
        let listener = UnixListener::bind(path)?;
        println!("0 {}", std::process::id());
        loop {
            tokio::spawn(serve(listener.accept().await?.0, line));
        }
    }
    let socket = TcpSocket::new_v4()?;
    socket.set_nodelay(true)?;
    socket.bind(([127, 0, 0, 1], 0).into())?;
    let listener = socket.listen(BACKLOG)?;
    println!("{} {}", listener.local_addr()?.port(), std::process::id());
    loop {
        tokio::spawn(serve(listener.accept().await?.0, line));
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let line = arguments.iter().any(|argument| argument == "line");
    let unix = arguments.iter().skip_while(|argument| *argument != "unix").nth(1).cloned();
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(run(line, unix))
}
