/* DCTCP flows over a leaf-spine in ns-3: a program of its own, which panama/peers/ns3.py compiles
   against an installed ns-3 and talks to over its standard input and output.

   In, once:  leaves hosts_per_leaf spines gbps prop_ns mark_packets horizon_s flows
              and for each flow: start_ps source destination bytes
   Then for each line that comes: the flows are simulated from the start, and out goes one line:
              packets_received  seconds  and for each flow picoseconds from its connection being
            there until its last byte, or -1

   Flows to host h go up over spine h mod spines. */
#include <chrono>
#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "ns3/applications-module.h"
#include "ns3/core-module.h"
#include "ns3/internet-module.h"
#include "ns3/network-module.h"
#include "ns3/point-to-point-module.h"
#include "ns3/tcp-dctcp.h"
#include "ns3/traffic-control-module.h"

using namespace ns3;

struct Shape {
    uint32_t leaves, per_leaf, spines;
    double gbps, prop_ns;
    uint32_t mark_packets;
    double horizon_s;
};

struct Flow {
    int64_t start_ps;
    uint32_t src, dst;
    uint64_t n_bytes;
    int64_t took_ps = -1, connected_ps = 0;
    uint64_t received = 0, given = 0;
};

static std::vector<Flow> flows;
static uint64_t packets;

static const uint32_t PAYLOAD = 1460;
static const uint16_t FIRST_PORT = 1000;

static void Receive(size_t i, Ptr<Socket> socket) {
    Flow& flow = flows[i];
    while (Ptr<Packet> packet = socket->Recv()) {
        if (!packet->GetSize()) break;
        flow.received += packet->GetSize();
    }
    if (flow.received == flow.n_bytes && flow.took_ps < 0)
        flow.took_ps = Simulator::Now().GetPicoSeconds() - flow.connected_ps;
}

static void Accepted(size_t i, Ptr<Socket> socket, const Address&) {
    socket->SetRecvCallback(MakeBoundCallback(&Receive, i));
}

static void Give(size_t i, Ptr<Socket> socket, uint32_t) {
    Flow& flow = flows[i];
    while (flow.given < flow.n_bytes && socket->GetTxAvailable() > 0) {
        uint64_t size = std::min<uint64_t>(flow.n_bytes - flow.given, socket->GetTxAvailable());
        size = std::min<uint64_t>(size, 1 << 20);
        int taken = socket->Send(Create<Packet>(uint32_t(size)));
        if (taken <= 0) return;
        flow.given += taken;
    }
}

static void Connected(size_t i, Ptr<Socket> socket) {
    flows[i].connected_ps = Simulator::Now().GetPicoSeconds();
    Give(i, socket, 0);
}

static void Start(size_t i, Ptr<Node> node, Address to) {
    Ptr<Socket> socket = Socket::CreateSocket(node, TcpSocketFactory::GetTypeId());
    socket->SetConnectCallback(MakeBoundCallback(&Connected, i), MakeNullCallback<void, Ptr<Socket>>());
    socket->SetSendCallback(MakeBoundCallback(&Give, i));
    socket->Bind();
    socket->Connect(to);
}

static void Count(Ptr<const Packet> packet) { packets += packet->GetSize() > 1000; }

static void Simulate(const Shape& shape) {
    const uint32_t hosts = shape.leaves * shape.per_leaf;
    NodeContainer host, leaf, spine;
    host.Create(hosts), leaf.Create(shape.leaves), spine.Create(shape.spines);
    InternetStackHelper stack;
    Ipv4StaticRoutingHelper routing;
    stack.SetRoutingHelper(routing);
    stack.SetIpv6StackInstall(false);
    stack.Install(host), stack.Install(leaf), stack.Install(spine);

    PointToPointHelper cable;
    cable.SetDeviceAttribute("DataRate", DataRateValue(DataRate(uint64_t(shape.gbps * 1e9))));
    cable.SetChannelAttribute("Delay", TimeValue(PicoSeconds(int64_t(shape.prop_ns * 1000))));
    // Packets wait in the queue that marks them, not in the device.
    cable.SetQueue("ns3::DropTailQueue", "MaxSize", StringValue("1p"));
    TrafficControlHelper marks, plain;
    // Two packets more are in the device and on the wire.
    const double k = shape.mark_packets > 2 ? shape.mark_packets - 2 : 1;
    marks.SetRootQueueDisc("ns3::RedQueueDisc", "MinTh", DoubleValue(k), "MaxTh", DoubleValue(k), "QW",
                           DoubleValue(1.0), "UseEcn", BooleanValue(true), "UseHardDrop",
                           BooleanValue(false), "MeanPktSize", UintegerValue(1500), "MaxSize",
                           QueueSizeValue(QueueSize("10000p")), "LinkBandwidth",
                           DataRateValue(DataRate(uint64_t(shape.gbps * 1e9))));
    plain.SetRootQueueDisc("ns3::FifoQueueDisc", "MaxSize", QueueSizeValue(QueueSize("1000000p")));

    Ipv4AddressHelper between("192.168.0.0", "255.255.255.252");
    // Host h of leaf l is 10.(h mod spines).l.(h + 1): a prefix says by which spine it is reached.
    auto address = [&](uint32_t h) {
        const uint32_t l = h / shape.per_leaf, in_leaf = h % shape.per_leaf;
        return Ipv4Address((10u << 24) | ((h % shape.spines) << 16) | (l << 8) | (in_leaf + 1));
    };
    for (uint32_t h = 0; h < hosts; h++) {
        const uint32_t l = h / shape.per_leaf;
        NetDeviceContainer ends = cable.Install(host.Get(h), leaf.Get(l));
        plain.Install(ends.Get(0)), marks.Install(ends.Get(1));
        Ptr<Ipv4> ip = host.Get(h)->GetObject<Ipv4>();
        const uint32_t up = ip->AddInterface(ends.Get(0));
        ip->AddAddress(up, Ipv4InterfaceAddress(address(h), Ipv4Mask("255.255.255.255")));
        ip->SetUp(up);
        routing.GetStaticRouting(ip)->SetDefaultRoute(Ipv4Address("0.0.0.0"), up);
        Ptr<Ipv4> at_leaf = leaf.Get(l)->GetObject<Ipv4>();
        const uint32_t down = at_leaf->AddInterface(ends.Get(1));
        at_leaf->AddAddress(down, Ipv4InterfaceAddress(between.NewAddress(), Ipv4Mask::GetOnes()));
        between.NewNetwork();
        at_leaf->SetUp(down);
        routing.GetStaticRouting(at_leaf)->AddHostRouteTo(address(h), down);
        ends.Get(0)->TraceConnectWithoutContext("MacRx", MakeCallback(&Count));
    }
    for (uint32_t l = 0; l < shape.leaves; l++) {
        for (uint32_t s = 0; s < shape.spines; s++) {
            NetDeviceContainer ends = cable.Install(leaf.Get(l), spine.Get(s));
            marks.Install(ends);
            uint32_t interface[2];
            for (int end = 0; end < 2; end++) {
                Ptr<Ipv4> ip = ends.Get(end)->GetNode()->GetObject<Ipv4>();
                interface[end] = ip->AddInterface(ends.Get(end));
                ip->AddAddress(interface[end],
                               Ipv4InterfaceAddress(between.NewAddress(), Ipv4Mask::GetOnes()));
                between.NewNetwork();
                ip->SetUp(interface[end]);
            }
            routing.GetStaticRouting(leaf.Get(l)->GetObject<Ipv4>())
                ->AddNetworkRouteTo(Ipv4Address((10u << 24) | (s << 16)), Ipv4Mask("255.255.0.0"),
                                    interface[0]);
            routing.GetStaticRouting(spine.Get(s)->GetObject<Ipv4>())
                ->AddNetworkRouteTo(Ipv4Address((10u << 24) | (s << 16) | (l << 8)),
                                    Ipv4Mask("255.255.255.0"), interface[1]);
        }
    }
    packets = 0;
    for (size_t i = 0; i < flows.size(); i++) {
        Flow& flow = flows[i];
        flow.took_ps = -1, flow.received = flow.given = 0;
        const uint16_t port = uint16_t(FIRST_PORT + i);
        Ptr<Socket> sink = Socket::CreateSocket(host.Get(flow.dst), TcpSocketFactory::GetTypeId());
        sink->Bind(InetSocketAddress(Ipv4Address::GetAny(), port));
        sink->Listen();
        sink->SetAcceptCallback(MakeNullCallback<bool, Ptr<Socket>, const Address&>(),
                                MakeBoundCallback(&Accepted, i));
        Simulator::Schedule(PicoSeconds(flow.start_ps), &Start, i, host.Get(flow.src),
                            Address(InetSocketAddress(address(flow.dst), port)));
    }
    Simulator::Stop(Seconds(shape.horizon_s));
    Simulator::Run();
    Simulator::Destroy();
}

int main() {
    Config::SetDefault("ns3::TcpL4Protocol::SocketType", TypeIdValue(TcpDctcp::GetTypeId()));
    Config::SetDefault("ns3::TcpSocket::SegmentSize", UintegerValue(PAYLOAD));
    Config::SetDefault("ns3::TcpSocket::InitialCwnd", UintegerValue(10));
    Config::SetDefault("ns3::TcpSocket::DelAckCount", UintegerValue(1));
    Config::SetDefault("ns3::TcpSocket::SndBufSize", UintegerValue(1 << 24));
    Config::SetDefault("ns3::TcpSocket::RcvBufSize", UintegerValue(1 << 24));
    Config::SetDefault("ns3::TcpSocketBase::Timestamp", BooleanValue(false));
    Config::SetDefault("ns3::TcpSocketBase::MinRto", TimeValue(MilliSeconds(1)));
    Config::SetDefault("ns3::TcpDctcp::DctcpShiftG", DoubleValue(1.0 / 16));
    // The unit of time must hold 80 ps exactly.
    Time::SetResolution(Time::PS);

    Shape shape;
    size_t n = 0;
    std::cin >> shape.leaves >> shape.per_leaf >> shape.spines >> shape.gbps >> shape.prop_ns >>
        shape.mark_packets >> shape.horizon_s >> n;
    flows.resize(n);
    for (Flow& flow : flows) std::cin >> flow.start_ps >> flow.src >> flow.dst >> flow.n_bytes;
    std::string line;
    std::getline(std::cin, line);
    while (std::getline(std::cin, line)) {
        const auto begin = std::chrono::steady_clock::now();
        Simulate(shape);
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
        std::cout << packets << ' ' << took.count();
        for (const Flow& flow : flows) std::cout << ' ' << flow.took_ps;
        std::cout << std::endl;
    }
}
