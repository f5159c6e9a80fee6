//! Addresses against a model that keeps them in a list: any sequence of writes, many at once, and thousands.

use super::*;
use crate::objects::{Author, Objects};
use model::schema::object_type;
use proptest::prelude::*;
use store::Memory;

/// First and last of each range; the third is not for VIPs.
const RANGES: [(u8, u8, &str); 3] = [(12, 13, "VIP_AND_SE"), (2, 9, "VIP"), (20, 29, "SE")];

fn v4(last: u8) -> Value {
    json!({"addr": format!("10.1.0.{last}"), "type": "V4"})
}

fn asking(count: usize) -> Vec<Value> {
    let vip = |id: usize| json!({"vip_id": id.to_string(), "auto_allocate_ip": true});
    (0..count).map(vip).collect()
}

/// A VRF context, and objects in it.
struct World {
    objects: Arc<Objects>,
    author: Author,
    /// What the model says: the last number of each VIP's address, by uuid of the VsVip.
    vips: BTreeMap<String, Vec<u8>>,
    made: usize,
}

impl World {
    async fn new() -> Self {
        let objects = Objects::open(Arc::new(Memory::default())).await;
        let world = Self {
            objects: Arc::new(objects.expect("an empty store")),
            author: Author::system("test"),
            vips: BTreeMap::new(),
            made: 0,
        };
        let admin = json!({"name": "admin"});
        world
            .create("tenant", Some("admin"), admin)
            .await
            .expect("made");
        let cloud = json!({"name": "Default-Cloud", "vtype": "CLOUD_NONE"});
        world.create("cloud", None, cloud).await.expect("made");
        let vrf = json!({"name": "global"});
        world.create("vrfcontext", None, vrf).await.expect("made");
        world
    }

    /// With a network of [`RANGES`].
    async fn with_ranges() -> Self {
        let world = Self::new().await;
        let range = |(begin, end, kind): &(u8, u8, &str)| json!({"range": {"begin": v4(*begin), "end": v4(*end)}, "type": format!("STATIC_IPS_FOR_{kind}")});
        let ranges: Vec<_> = RANGES.iter().map(range).collect();
        world.network(24, ranges).await;
        world
    }

    async fn network(&self, mask: u8, ranges: Vec<Value>) {
        let subnet =
            json!({"prefix": {"ip_addr": v4(0), "mask": mask}, "static_ip_ranges": ranges});
        let network = json!({"name": "n", "configured_subnets": [subnet]});
        self.create("network", None, network).await.expect("made");
    }

    async fn create(&self, path: &str, uuid: Option<&str>, body: Value) -> Result<String, String> {
        let ty = object_type(path).expect("known");
        let body = body.as_object().expect("an object").clone();
        let make =
            |draft: &mut Draft| draft.create(ty, body, uuid.map(str::to_owned), &self.author);
        let made = self.objects.change(&self.author, "test", make).await;
        made.map_err(|e| e.text)
    }

    async fn put(&self, uuid: &str, body: Value) -> Result<(), String> {
        let body = body.as_object().expect("an object").clone();
        let put = |draft: &mut Draft| draft.update(vsvip_type(), uuid, body, &self.author);
        let done = self.objects.change(&self.author, "test", put).await;
        done.map_err(|e| e.text)
    }

    /// The last number of each address that the VsVip has in the store.
    fn stored(&self, uuid: &str) -> Vec<u8> {
        let snapshot = self.objects.snapshot();
        let vsvip = snapshot.get("vsvip", uuid).expect("there");
        let addresses = vips(&vsvip.object).map(|vip| Family::V4.address(vip));
        let last = |address: Option<IpAddr>| match address {
            Some(IpAddr::V4(address)) => address.octets()[3],
            other => panic!("{uuid} has {other:?}"),
        };
        addresses.map(last).collect()
    }

    fn used(&self) -> BTreeSet<u8> {
        self.vips.values().flatten().copied().collect()
    }

    /// The addresses that so many more VIPs get, if there are so many.
    fn next(&self, count: usize) -> Option<Vec<u8>> {
        let used = self.used();
        let free = (2..=9).chain(12..=13).filter(|n| !used.contains(n));
        let next: Vec<u8> = free.take(count).collect();
        (next.len() == count).then_some(next)
    }

    fn some_vsvip(&self, n: usize) -> Option<String> {
        let count = self.vips.len().max(1);
        self.vips.keys().nth(n % count).cloned()
    }

    async fn take(&mut self, step: Step) {
        self.made += 1;
        let name = format!("v{}", self.made);
        match step {
            Step::Ask(count) => {
                let body = json!({"name": name, "vip": asking(count)});
                let made = self.create("vsvip", None, body).await;
                self.expect(made, self.next(count));
            }
            Step::Write(last) => {
                let body = json!({"name": name, "vip": [{"ip_address": v4(last)}]});
                let made = self.create("vsvip", None, body).await;
                let free = !self.used().contains(&last);
                if let Some(uuid) = self.expect_made(made, free) {
                    self.vips.insert(uuid, vec![last]);
                }
            }
            Step::Resize(n, count) => {
                let Some(uuid) = self.some_vsvip(n) else {
                    return;
                };
                self.resize(uuid, name, count).await;
            }
            Step::Delete(n) => {
                let Some(uuid) = self.some_vsvip(n) else {
                    return;
                };
                let delete = |draft: &mut Draft| draft.delete(vsvip_type(), &uuid);
                let gone = self.objects.change(&self.author, "test", delete).await;
                gone.expect("nothing refers to it");
                self.vips.remove(&uuid);
            }
        }
    }

    /// A PUT that names no address: what is there stays, what is added is new, what is left out is free.
    async fn resize(&mut self, uuid: String, name: String, count: usize) {
        let put = self
            .put(&uuid, json!({"name": name, "vip": asking(count)}))
            .await;
        let mut kept = self.vips[&uuid].clone();
        kept.truncate(count);
        // What the write itself frees can be given by it.
        let before = self.vips.insert(uuid.clone(), kept.clone()).expect("there");
        let more = self.next(count - kept.len());
        if more.is_none() {
            self.vips.insert(uuid.clone(), before);
        }
        let all = more.map(|more| kept.into_iter().chain(more).collect());
        self.expect(put.map(|()| uuid), all);
    }

    fn expect(&mut self, done: Result<String, String>, addresses: Option<Vec<u8>>) {
        if let Some(uuid) = self.expect_made(done, addresses.is_some()) {
            let addresses = addresses.expect("just looked");
            assert_eq!(self.stored(&uuid), addresses);
            self.vips.insert(uuid, addresses);
        }
    }

    fn expect_made(&self, done: Result<String, String>, good: bool) -> Option<String> {
        match done {
            Ok(uuid) => {
                assert!(good, "{uuid} was made, and there was nothing left");
                Some(uuid)
            }
            Err(text) => {
                assert!(!good, "{text}");
                let said = text.contains("No available free IPs") || text.contains("is used by");
                assert!(said, "{text}");
                None
            }
        }
    }

    /// All is in the store as the model has it, and no address is there twice.
    fn check(&self) {
        let snapshot = self.objects.snapshot();
        assert_eq!(snapshot.count("vsvip"), self.vips.len());
        for (uuid, addresses) in &self.vips {
            assert_eq!(&self.stored(uuid), addresses);
        }
        let all: Vec<u8> = self.vips.values().flatten().copied().collect();
        assert_eq!(all.len(), self.used().len(), "{all:?}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// A VsVip with so many VIPs that ask.
    Ask(usize),
    /// One with this address.
    Write(u8),
    /// So many VIPs in the VsVip of this number.
    Resize(usize, usize),
    /// The VsVip of this number.
    Delete(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..4_usize).prop_map(Step::Ask),
        2 => (1..16_u8).prop_map(Step::Write),
        2 => (any::<usize>(), 1..5_usize).prop_map(|(n, count)| Step::Resize(n, count)),
        2 => any::<usize>().prop_map(Step::Delete),
    ]
}

fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_two_vips_share_an_address_and_each_gets_the_lowest(
        steps in proptest::collection::vec(step(), 1..40)
    ) {
        run(async {
            let mut world = World::with_ranges().await;
            for step in steps {
                world.take(step).await;
                world.check();
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writes_at_the_same_time_never_get_the_same_address() {
    let world = Arc::new(World::with_ranges().await);
    let write = |n: usize| {
        let world = world.clone();
        let body = json!({"name": format!("v{n}"), "vip": asking(1)});
        tokio::spawn(async move { world.create("vsvip", None, body).await })
    };
    // There are ten addresses.
    let all: Vec<_> = (0..16).map(write).collect();
    let (mut given, mut refused) = (Vec::new(), 0);
    for task in all {
        match task.await.expect("ended") {
            Ok(uuid) => given.extend(world.stored(&uuid)),
            Err(text) => {
                assert!(text.contains("No available free IPs"), "{text}");
                refused += 1;
            }
        }
    }
    given.sort_unstable();
    assert_eq!(given, [2, 3, 4, 5, 6, 7, 8, 9, 12, 13]);
    assert_eq!(refused, 6);
}

#[tokio::test]
async fn thousands_of_vips_get_the_first_addresses_in_order_in_one_change_and_after_it() {
    const COUNT: u32 = 5000;
    let world = World::new().await;
    let last = json!({"addr": "10.1.255.255", "type": "V4"});
    world
        .network(16, vec![json!({"range": {"begin": v4(0), "end": last}})])
        .await;
    let body = |n: u32| json!({"name": format!("v{n}"), "vip": asking(1)});
    let make = |draft: &mut Draft| {
        let bodies = (0..COUNT).map(|n| body(n).as_object().expect("an object").clone());
        let each = bodies.map(|body| draft.create(vsvip_type(), body, None, &world.author));
        each.collect::<Result<Vec<_>, _>>()
    };
    let made = world.objects.change(&world.author, "test", make).await;
    let check = |n: u32, uuid: &str| {
        let snapshot = world.objects.snapshot();
        let vsvip = snapshot.get("vsvip", uuid).expect("there");
        let address = vips(&vsvip.object).find_map(|vip| Family::V4.address(vip));
        let expected = std::net::Ipv4Addr::from(0x0A01_0001 + n);
        assert_eq!(address, Some(IpAddr::V4(expected)), "{n}");
    };
    for (n, uuid) in (0..COUNT).zip(made.expect("made")) {
        check(n, &uuid);
    }
    for n in COUNT..COUNT + 100 {
        let uuid = world.create("vsvip", None, body(n)).await;
        check(n, &uuid.expect("made"));
    }
}
