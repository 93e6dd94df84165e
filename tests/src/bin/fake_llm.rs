//! The fake LLM provider as a program of its own.

use std::error::Error;
use std::net::SocketAddr;

use clap::Parser;
use system_tests::fake_llm::FakeLlm;
use tokio::net::TcpListener;

/// A fake LLM provider that speaks the APIs of the real ones, with a bill of its own (GET /billed).
#[derive(Debug, Parser)]
struct Arguments {
    /// Where to listen; port 0 takes a free port.
    #[arg(long, default_value = "127.0.0.1:9100")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let listener = TcpListener::bind(arguments.listen)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", arguments.listen))?;
    let fake = FakeLlm::listen(listener)?;
    println!("listening on {}", fake.addr);
    fake.wait().await;
    Ok(())
}
