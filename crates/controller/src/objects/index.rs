//! Where to look for objects by something that they have: who refers to an object, what has a name, what has an address.
//! It is kept with every change of a [`super::Snapshot`], and shares what did not change with the snapshot before.

use model::object::{self, Object};
use model::schema::ObjectType;
use rpds::RedBlackTreeSetSync;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// An object by type and uuid.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Node {
    path: &'static str,
    uuid: Arc<str>,
}

impl Node {
    pub(super) fn new(ty: &'static ObjectType, uuid: Arc<str>) -> Self {
        Self {
            path: &ty.path,
            uuid,
        }
    }

    /// Not above any node.
    fn first() -> Self {
        Self {
            path: "",
            uuid: "".into(),
        }
    }
}

/// See the module's documentation.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    /// A canonical reference, and an object that has it.
    edges: RedBlackTreeSetSync<(Arc<str>, Node)>,
    /// Type, name, uuid.
    names: RedBlackTreeSetSync<(&'static str, String, Arc<str>)>,
    /// A VRF context (its canonical reference), an address, and who has it there: a VsVip, or a virtual service that sends from
    /// it.
    addresses: RedBlackTreeSetSync<(Arc<str>, IpAddr, Node)>,
}

impl Index {
    /// An object came (nothing before), was replaced, or went (nothing after).
    pub(super) fn change(
        &mut self,
        ty: &'static ObjectType,
        node: &Node,
        before: Option<&Object>,
        after: Option<&Object>,
    ) {
        let refs = |object| references(ty, object);
        let (old, new) = (before.map(refs), after.map(refs));
        difference(old, new, |reference, comes| {
            let entry = (self.target(reference), node.clone());
            set(&mut self.edges, entry, comes);
        });
        let (old, new) = (before.map(name), after.map(name));
        difference(old, new, |name, comes| {
            let entry = (node.path, name.to_owned(), node.uuid.clone());
            set(&mut self.names, entry, comes);
        });
        let have = |object| addresses(&ty.path, object);
        let (old, new) = (before.map(have), after.map(have));
        difference(old, new, |(vrf, address), comes| {
            let entry = (self.target(vrf), address, node.clone());
            set(&mut self.addresses, entry, comes);
        });
    }

    /// The reference, in the memory of one that is known already: thousands of objects refer to the same few.
    fn target(&self, canonical: &str) -> Arc<str> {
        let new: Arc<str> = canonical.into();
        let mut behind = self.edges.range((new.clone(), Node::first())..);
        let known = behind.next().filter(|(known, _)| *known == new);
        known.map_or(new, |(known, _)| known.clone())
    }

    /// Type and uuid of the objects that have this canonical reference.
    pub(super) fn referrers<'a>(
        &'a self,
        canonical: &str,
    ) -> impl Iterator<Item = (&'static str, &'a str)> + use<'a> {
        let target: Arc<str> = canonical.into();
        let from = (target.clone(), Node::first());
        let all = self.edges.range(from..);
        all.take_while(move |(to, _)| *to == target)
            .map(|(_, node)| (node.path, &*node.uuid))
    }

    /// uuids of the objects of this type and name.
    pub(super) fn named<'a>(
        &'a self,
        ty: &'static ObjectType,
        name: &str,
    ) -> impl Iterator<Item = &'a str> + use<'a> {
        let path = ty.path.as_str();
        let name = name.to_owned();
        let from = (path, name.clone(), Arc::from(""));
        let all = self.names.range(from..);
        all.take_while(move |(p, n, _)| *p == path && *n == name)
            .map(|(_, _, uuid)| &**uuid)
    }

    /// The addresses of a VRF context from this one on, lowest first, each with type and uuid of who has it.
    pub(super) fn addresses_from<'a>(
        &'a self,
        vrf: &str,
        first: IpAddr,
    ) -> impl Iterator<Item = (IpAddr, (&'static str, &'a str))> + use<'a> {
        let vrf: Arc<str> = vrf.into();
        let all = self.addresses.range((vrf.clone(), first, Node::first())..);
        all.take_while(move |(here, _, _)| *here == vrf)
            .map(|(_, address, node)| (*address, (node.path, &*node.uuid)))
    }
}

fn set<T: Ord>(index: &mut RedBlackTreeSetSync<T>, entry: T, comes: bool) {
    if comes {
        index.insert_mut(entry);
    } else {
        index.remove_mut(&entry);
    }
}

/// Calls `change` for what is in one of the two only; `true` for what is new.
fn difference<T: Ord + Copy>(
    before: Option<BTreeSet<T>>,
    after: Option<BTreeSet<T>>,
    mut change: impl FnMut(T, bool),
) {
    let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
    before
        .difference(&after)
        .for_each(|gone| change(*gone, false));
    after.difference(&before).for_each(|new| change(*new, true));
}

fn references<'a>(ty: &ObjectType, object: &'a Object) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    object::visit_refs(ty, object, &mut |_, value| {
        found.insert(value);
    });
    found
}

fn name(object: &Object) -> BTreeSet<&str> {
    let name = object.get("name").and_then(Value::as_str);
    name.into_iter().collect()
}

/// The addresses that an object as stored has for itself, with its VRF context: those of a VsVip's VIPs, and those that a
/// virtual service sends from.
fn addresses<'a>(path: &str, object: &'a Object) -> BTreeSet<(&'a str, IpAddr)> {
    let list = |name: &str| object.get(name).and_then(Value::as_array);
    let (vips, sources) = match path {
        "vsvip" => (list("vip"), None),
        "virtualservice" => (None, list("snat_ip")),
        _ => return BTreeSet::new(),
    };
    let vips = vips.into_iter().flatten().flat_map(|vip| {
        let names = ["ip_address", "ip6_address"].into_iter();
        names.filter_map(|name| vip.get(name))
    });
    let vrf = object.get("vrf_context_ref").and_then(Value::as_str);
    let vrf = vrf.unwrap_or_default();
    let all = vips.chain(sources.into_iter().flatten());
    let texts = all.filter_map(|address| address.get("addr")?.as_str());
    texts
        .filter_map(|text| Some((vrf, text.parse().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::schema::object_type;
    use serde_json::json;

    fn object(value: Value) -> Object {
        value.as_object().cloned().expect("an object")
    }

    #[test]
    fn what_an_object_has_is_found_until_it_changes_or_goes() {
        let ty = object_type("virtualservice").expect("in the schema");
        let node = Node::new(ty, "vs-1".into());
        let first =
            object(json!({"name": "a", "pool_ref": "/api/pool/p", "vsvip_ref": "/api/vsvip/v"}));
        let second =
            object(json!({"name": "b", "pool_ref": "/api/pool/q", "vsvip_ref": "/api/vsvip/v"}));
        let mut index = Index::default();
        index.change(ty, &node, None, Some(&first));
        let before = index.clone();
        index.change(ty, &node, Some(&first), Some(&second));
        let users = |index: &Index, to: &str| {
            index
                .referrers(to)
                .map(|(_, u)| u.to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(users(&index, "/api/pool/p"), Vec::<String>::new());
        assert_eq!(users(&index, "/api/pool/q"), ["vs-1"]);
        assert_eq!(users(&index, "/api/vsvip/v"), ["vs-1"]);
        assert_eq!(
            users(&before, "/api/pool/p"),
            ["vs-1"],
            "the one before stays as it was"
        );
        assert_eq!(index.named(ty, "b").collect::<Vec<_>>(), ["vs-1"]);
        assert_eq!(index.named(ty, "a").count(), 0);
        index.change(ty, &node, Some(&second), None);
        assert!(index.edges.is_empty() && index.names.is_empty());
    }

    #[test]
    fn an_address_is_found_at_every_vsvip_that_has_it_in_a_vrf() {
        let ty = object_type("vsvip").expect("in the schema");
        let vsvip = |vrf: &str| {
            object(json!({"name": "v", "vrf_context_ref": vrf, "vip": [
                {"ip_address": {"addr": "10.0.0.9", "type": "V4"}, "ip6_address": {"addr": "2001:db8::1", "type": "V6"}},
                {"ip_address": {"addr": "10.0.0.10", "type": "V4"}},
            ]}))
        };
        let mut index = Index::default();
        for (uuid, vrf) in [("v-1", "/a"), ("v-2", "/a"), ("v-3", "/b")] {
            let node = Node::new(ty, uuid.into());
            index.change(ty, &node, None, Some(&vsvip(vrf)));
        }
        let address = |text: &str| text.parse().expect("an address");
        let at = |index: &Index, vrf: &str, text: &str| -> Vec<String> {
            let all = index.addresses_from(vrf, address(text));
            let here = all.take_while(|(found, _)| *found == address(text));
            here.map(|(_, (_, uuid))| uuid.to_owned()).collect()
        };
        assert_eq!(at(&index, "/a", "10.0.0.9"), ["v-1", "v-2"]);
        assert_eq!(at(&index, "/a", "2001:db8::1"), ["v-1", "v-2"]);
        assert_eq!(at(&index, "/b", "10.0.0.9"), ["v-3"]);
        assert!(at(&index, "/b", "10.0.0.8").is_empty());
        assert!(at(&index, "", "10.0.0.9").is_empty());
        let all = index.addresses_from("/b", address("10.0.0.9"));
        let all: Vec<_> = all.map(|(address, _)| address.to_string()).collect();
        assert_eq!(all, ["10.0.0.9", "10.0.0.10", "2001:db8::1"]);

        let node = Node::new(ty, "v-3".into());
        index.change(ty, &node, Some(&vsvip("/b")), Some(&vsvip("/c")));
        assert!(at(&index, "/b", "10.0.0.9").is_empty());
        assert_eq!(at(&index, "/c", "10.0.0.9"), ["v-3"]);

        let ty = object_type("virtualservice").expect("in the schema");
        let sources = json!([{"addr": "2001:DB8:0::9", "type": "V6"}]);
        let vs = object(json!({"name": "s", "vrf_context_ref": "/a", "snat_ip": sources}));
        index.change(ty, &Node::new(ty, "s-1".into()), None, Some(&vs));
        assert_eq!(at(&index, "/a", "2001:db8::9"), ["s-1"]);
    }
}
