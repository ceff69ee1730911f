//! Names to addresses, without the C library's look-up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::Path;

use hickory_resolver::config::{LookupIpStrategy, ResolveHosts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{ResolverBuilder, TokioResolver};

/// Which addresses are wanted: `AddressFamily` of a configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Family {
    /// Of either kind.
    #[default]
    Any,
    /// Of version 4.
    V4,
    /// Of version 6.
    V6,
}

impl Family {
    /// Whether this is such an address.
    pub fn takes(self, address: &IpAddr) -> bool {
        match self {
            Family::Any => true,
            Family::V4 => address.is_ipv4(),
            Family::V6 => address.is_ipv6(),
        }
    }
}

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    #[error("no name service is configured in /etc/resolv.conf, and /etc/hosts does not have the name")]
    Unconfigured(#[source] NetError),
    #[error("the name has no address")]
    Unknown,
    #[error("the name service says: {0}")]
    Lookup(#[source] NetError),
    #[error("the name has no address of the wanted family")]
    Empty,
    #[error("this machine has no network interface {0:?}")]
    Interface(String),
}

/// Where to connect to for `name`, which may be an address with a network interface, such as `fe80::1%eth0`: the same
/// link-local address can be at each of them.
pub(crate) async fn endpoints(
    name: &str,
    port: u16,
    family: Family,
) -> Result<Vec<SocketAddr>, ResolveError> {
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    if let Some((address, interface)) = bare.split_once('%')
        && let Ok(address) = address.parse::<Ipv6Addr>()
    {
        let scope = interface_index(interface)
            .ok_or_else(|| ResolveError::Interface(interface.chars().take(64).collect()))?;
        if !family.takes(&address.into()) {
            return Err(ResolveError::Empty);
        }
        return Ok(vec![SocketAddrV6::new(address, port, 0, scope).into()]);
    }
    let found = addresses(name, family).await?;
    Ok(found.into_iter().map(|address| SocketAddr::new(address, port)).collect())
}

/// The number of a network interface, which may be given instead of its name.
fn interface_index(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return (number != 0).then_some(number);
    }
    #[cfg(target_os = "linux")]
    {
        use rustix::net::{AddressFamily, SocketType, netdevice, socket};
        let any = socket(AddressFamily::INET, SocketType::DGRAM, None)
            .or_else(|_| socket(AddressFamily::INET6, SocketType::DGRAM, None));
        netdevice::name_to_index(any.ok()?, name).ok()
    }
    // Other systems' call is not to be had without unsafe code; there the number serves.
    #[cfg(not(target_os = "linux"))]
    None
}

/// The addresses of `name`, in the order in which they are to be tried: families in turn, the first family first.
///
/// Numbers and `localhost` need nothing, `/etc/hosts` comes before the name service. The C library is not asked: in
/// a static program it would load the build machine's modules at run time.
pub(crate) async fn addresses(name: &str, family: Family) -> Result<Vec<IpAddr>, ResolveError> {
    let mut found: Vec<IpAddr> = if let Some(address) = numeric(name) {
        vec![address]
    } else {
        let listed = in_hosts_file(Path::new("/etc/hosts"), name);
        if listed.iter().any(|address| family.takes(address)) {
            listed
        } else if is_localhost(name) {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        } else {
            ask_name_service(name, family).await?
        }
    };
    found.retain(|address| family.takes(address));
    if found.is_empty() { Err(ResolveError::Empty) } else { Ok(in_turn(found)) }
}

/// An address written as such, also in brackets.
fn numeric(name: &str) -> Option<IpAddr> {
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    bare.parse().ok()
}

/// RFC 6761, section 6.3: these names always mean this machine.
fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

fn in_hosts_file(path: &Path, name: &str) -> Vec<IpAddr> {
    let Ok(text) = std::fs::read(path) else { return Vec::new() };
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(&text).lines() {
        let mut fields = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let Some(Ok(address)) = fields.next().map(str::parse) else { continue };
        if fields.any(|field| field.eq_ignore_ascii_case(name)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

async fn ask_name_service(name: &str, family: Family) -> Result<Vec<IpAddr>, ResolveError> {
    // A resolver of its own for each look-up: its background tasks belong to the runtime that made it, and a program
    // may have several.
    look_up(TokioResolver::builder_tokio().map_err(ResolveError::Unconfigured)?, name, family).await
}

async fn look_up(
    mut builder: ResolverBuilder<TokioRuntimeProvider>,
    name: &str,
    family: Family,
) -> Result<Vec<IpAddr>, ResolveError> {
    let options = builder.options_mut();
    options.use_hosts_file = ResolveHosts::Never;
    options.ip_strategy = match family {
        Family::Any => LookupIpStrategy::Ipv4AndIpv6,
        Family::V4 => LookupIpStrategy::Ipv4Only,
        Family::V6 => LookupIpStrategy::Ipv6Only,
    };
    let resolver = builder.build().map_err(ResolveError::Unconfigured)?;
    let found = resolver.lookup_ip(name).await.map_err(|e| match e {
        e if e.is_nx_domain() || e.is_no_records_found() => ResolveError::Unknown,
        e => ResolveError::Lookup(e),
    })?;
    Ok(found.iter().collect())
}

/// Takes from both families in turn, so that a family without a route costs one wait and not many (RFC 8305,
/// section 4).
fn in_turn(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let first_is_v4 = addresses.first().is_some_and(IpAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv4() == first_is_v4);
    let mut out = Vec::with_capacity(first.len() + second.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        match (first.next(), second.next()) {
            (None, None) => return out,
            (a, b) => out.extend(a.into_iter().chain(b)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn numbers_and_localhost_need_no_service() {
        let v4: IpAddr = "192.0.2.7".parse().expect("an address");
        let v6: IpAddr = "2001:db8::7".parse().expect("an address");
        assert_eq!(addresses("192.0.2.7", Family::Any).await.expect("numeric"), [v4]);
        assert_eq!(addresses("[2001:db8::7]", Family::V6).await.expect("numeric"), [v6]);
        assert!(matches!(addresses("192.0.2.7", Family::V6).await, Err(ResolveError::Empty)));
        let local = addresses("localhost", Family::V4).await.expect("always known");
        assert!(local.iter().all(IpAddr::is_loopback));
        assert!(addresses("a.b.LOCALHOST.", Family::Any).await.is_ok());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn an_address_may_name_its_interface() {
        let index: u32 = std::fs::read_to_string("/sys/class/net/lo/ifindex")
            .expect("every machine has this interface")
            .trim()
            .parse()
            .expect("a number");
        let link_local: Ipv6Addr = "fe80::1".parse().expect("an address");
        let expected = SocketAddr::from(SocketAddrV6::new(link_local, 22, 0, index));
        for name in ["fe80::1%lo".to_owned(), "[fe80::1%lo]".to_owned(), format!("fe80::1%{index}")] {
            assert_eq!(endpoints(&name, 22, Family::Any).await.expect("known"), [expected], "{name}");
        }
        assert!(matches!(endpoints("fe80::1%lo", 22, Family::V4).await, Err(ResolveError::Empty)));
        for name in ["fe80::1%nowhere", "fe80::1%", "fe80::1%0"] {
            let error = endpoints(name, 22, Family::Any).await.expect_err(name);
            assert!(matches!(error, ResolveError::Interface(_)), "{name}: {error}");
        }
    }

    #[test]
    fn the_hosts_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("hosts");
        let text = "# comment\n192.0.2.1 Web1 web1.example.org # 192.0.2.9 web1\n\t2001:db8::1\tweb1\nbad web1\n\
                    192.0.2.1 web1\n";
        std::fs::write(&file, text).expect("written");
        let found = in_hosts_file(&file, "WEB1.");
        assert_eq!(
            found,
            ["192.0.2.1".parse::<IpAddr>().expect("an address"), "2001:db8::1".parse().expect("one")]
        );
        assert!(in_hosts_file(&file, "web").is_empty());
        assert!(in_hosts_file(Path::new("/nonexistent"), "web1").is_empty());
    }

    /// Answers questions for `web.test`, for one address a family, and says of others that they do not exist.
    async fn name_server(socket: tokio::net::UdpSocket) {
        let mut buffer = [0; 512];
        while let Ok((n, peer)) = socket.recv_from(&mut buffer).await {
            // A header, one question (name, type, class), perhaps more: RFC 1035, section 4.1.
            let question = &buffer[12..n];
            let name_end = question.iter().position(|&b| b == 0).expect("a name ends") + 1;
            let (name, kind) = (&question[..name_end], &question[name_end..name_end + 4]);
            let known = name.eq_ignore_ascii_case(b"\x03web\x04test\x00");
            let data: &[u8] = match (known, kind[1]) {
                (true, 1) => &[192, 0, 2, 7],
                (true, 28) => &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
                _ => &[],
            };
            let (code, answers) = if known { (0x80, 1) } else { (0x83, 0) };
            let mut reply = vec![buffer[0], buffer[1], 0x81, code, 0, 1, 0, answers, 0, 0, 0, 0];
            reply.extend_from_slice(&question[..name_end + 4]);
            if known {
                reply.extend_from_slice(&[0xc0, 12, 0, kind[1], 0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
                reply.extend_from_slice(data);
            }
            socket.send_to(&reply, peer).await.expect("sent");
        }
    }

    #[tokio::test]
    async fn a_name_service_is_asked() {
        use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};

        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let port = socket.local_addr().expect("bound").port();
        let serving = tokio::spawn(name_server(socket));
        let mut connection = ConnectionConfig::udp();
        connection.port = port;
        let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![connection]);
        let ask = async |name, family| {
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server.clone()]);
            let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            look_up(builder, name, family).await
        };
        let v4: IpAddr = "192.0.2.7".parse().expect("an address");
        let v6: IpAddr = "2001:db8::7".parse().expect("an address");
        let mut both = ask("web.test", Family::Any).await.expect("known");
        both.sort();
        assert_eq!(both, [v4, v6]);
        assert_eq!(ask("web.test", Family::V4).await.expect("known"), [v4]);
        assert_eq!(ask("web.test", Family::V6).await.expect("known"), [v6]);
        assert!(matches!(ask("other.test", Family::Any).await, Err(ResolveError::Unknown)));
        serving.abort();
    }

    #[test]
    fn families_take_turns() {
        let addresses: Vec<IpAddr> = ["2001:db8::1", "2001:db8::2", "192.0.2.1"]
            .iter()
            .map(|a| a.parse().expect("an address"))
            .collect();
        let ordered: Vec<String> = in_turn(addresses).iter().map(ToString::to_string).collect();
        assert_eq!(ordered, ["2001:db8::1", "192.0.2.1", "2001:db8::2"]);
    }
}
