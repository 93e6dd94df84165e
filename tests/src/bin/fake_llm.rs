//! The fake LLM provider as a program of its own.

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Parser;
use system_tests::fake_llm::FakeLlm;
use system_tests::harness::tls::Authority;
use system_tests::harness::tls_front::TlsFront;
use tokio::net::TcpListener;

/// A fake LLM provider that speaks the APIs of the real ones, with a bill of its own (GET /billed).
#[derive(Debug, Parser)]
struct Arguments {
    /// Where to listen; port 0 takes a free port.
    #[arg(long, default_value = "127.0.0.1:9100")]
    listen: SocketAddr,
    /// Where to listen with TLS as well.
    #[arg(long, requires_all = ["certificates", "names"])]
    tls_listen: Option<SocketAddr>,
    /// A folder to write certificates to: provider-ca.pem, the authority behind `--tls-listen`, and for
    /// whoever intercepts, mesh-ca.pem, mesh.pem and mesh-key.pem. The authorities' keys are not kept.
    #[arg(long)]
    certificates: Option<PathBuf>,
    /// A host name that certificates are for; may be given more than once.
    #[arg(long = "name")]
    names: Vec<String>,
}

/// Writes the certificates, and listens with the provider's.
fn tls_front(listener: TcpListener, folder: &Path, names: &[String], target: SocketAddr) -> TlsFront {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (provider, mesh) = (Authority::new("Fake LLM provider"), Authority::new("Purser's local mesh"));
    for (authority, name) in [(&provider, "provider-ca.pem"), (&mesh, "mesh-ca.pem")] {
        let _path = authority.write(folder, name);
    }
    let _paths = mesh.issue(&names).write(folder, "mesh");
    TlsFront::on(listener, &provider.issue(&names), target)
}

async fn bind(addr: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(addr).await.map_err(|error| format!("cannot listen on {addr}: {error}"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let fake = FakeLlm::listen(bind(arguments.listen).await?)?;
    let mut front = None;
    if let (Some(addr), Some(folder)) = (arguments.tls_listen, &arguments.certificates) {
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        front = Some(tls_front(bind(addr).await?, folder, &arguments.names, fake.addr));
    }
    if let Some(front) = &front {
        println!("listening with TLS on {}", front.addr);
    }
    println!("listening on {}", fake.addr);
    fake.wait().await;
    Ok(())
}
