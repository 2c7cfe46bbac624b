/* Events to come, ordered by (time, seq): a 4-ary heap with a hole at the top.

   Taking the first event leaves a hole, which the next push fills with one sift-down; so a packet that
   goes from one link to the next costs one such pass, not two. */
#pragma once
#include <cstdint>
#include <vector>

struct Event {
    int64_t time;
    uint64_t seq;
    uint32_t what;    // kind << 28 | number
    uint32_t packet;  // that arrives, or 0
};

class Heap {
  public:
    bool empty() {
        close();
        return items_.empty();
    }
    int64_t bytes() const { return int64_t(items_.capacity() * sizeof(Event)); }
    const Event& top() {
        close();
        return items_[0];
    }
    // After top(): the first event is gone.
    void take() { hole_ = true; }

    void push(int64_t time, uint64_t seq, uint32_t what, uint32_t packet = 0) {
        Event event{time, seq, what, packet};
        if (hole_) {
            hole_ = false;
            sink(event);
            return;
        }
        size_t at = items_.size();
        items_.push_back(event);
        while (at > 0) {
            size_t parent = (at - 1) >> 2;
            if (!before(event, items_[parent])) break;
            items_[at] = items_[parent];
            at = parent;
        }
        items_[at] = event;
    }
    // Tell which packets may be next.
    template <class Tell>
    void soon(Tell tell) const {
        for (size_t i = 1; i < 5 && i < items_.size(); i++) tell(items_[i].packet);
    }

  private:
    static __int128 key(const Event& e) { return __int128(e.time) << 64 | e.seq; }
    static bool before(const Event& a, const Event& b) {
        // One comparison of 128 bits, without a branch: which of two comes first cannot be foreseen.
        return key(a) < key(b);
    }
    void close() {
        if (!hole_) return;
        hole_ = false;
        Event last = items_.back();
        items_.pop_back();
        if (!items_.empty()) sink(last);
    }
    // Place an event from the top downwards.
    void sink(const Event& event) {
        Event* items = items_.data();
        const size_t n = items_.size();
        size_t at = 0;
        for (;;) {
            size_t child = 4 * at + 1;
            if (child >= n) break;
            size_t least = child;
            if (child + 4 <= n) {
                // Two pairs, then their winners, so that the two first comparisons overlap.
                size_t left = child + before(items[child + 1], items[child]);
                size_t right = child + 2 + before(items[child + 3], items[child + 2]);
                least = before(items[right], items[left]) ? right : left;
            } else {
                for (size_t i = child + 1; i < n; i++)
                    if (before(items[i], items[least])) least = i;
            }
            if (!before(items[least], event)) break;
            items[at] = items[least];
            at = least;
        }
        items[at] = event;
    }
    std::vector<Event> items_;
    bool hole_ = false;
};
