/* Events to come, ordered by (time, seq): a 4-ary heap with a hole at the top.

   Taking the first event leaves a hole, which the next push fills with one sift-down; so a packet that
   goes from one link to the next costs one such pass, not two. */
#pragma once
#include <cstdint>
#include <vector>

struct Event {
    int64_t time;
    uint64_t seq;
    uint32_t what;  // kind << 28 | number
};

class Heap {
  public:
    bool empty() {
        close();
        return items_.empty();
    }
    const Event& top() {
        close();
        return items_[0];
    }
    // After top(): the first event is gone.
    void take() { hole_ = true; }

    void push(int64_t time, uint64_t seq, uint32_t what) {
        Event event{time, seq, what};
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
    size_t size() const { return items_.size() - hole_; }
    const std::vector<Event>& items() const { return items_; }

  private:
    static bool before(const Event& a, const Event& b) {
        return a.time < b.time || (a.time == b.time && a.seq < b.seq);
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
            size_t end = child + 4 < n ? child + 4 : n;
            size_t least = child;
            for (size_t i = child + 1; i < end; i++)
                if (before(items[i], items[least])) least = i;
            if (!before(items[least], event)) break;
            items[at] = items[least];
            at = least;
        }
        items[at] = event;
    }
    std::vector<Event> items_;
    bool hole_ = false;
};
