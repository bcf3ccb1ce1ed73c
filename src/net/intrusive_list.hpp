// A doubly linked list through a base class of its elements: adding and removing cannot fail, and
// an element that is destroyed leaves the list by itself.
#pragma once

#include <cstddef>

namespace mana_ai::net::detail {

// `Tag` distinguishes the lists that one object can be in at the same time.
template <class Tag>
class ListLink {
 public:
    ListLink() noexcept = default;
    ~ListLink() { unlink(); }
    ListLink(const ListLink&) = delete;
    ListLink& operator=(const ListLink&) = delete;

    bool linked() const noexcept { return next_ != nullptr; }
    void unlink() noexcept {
        if (next_ == nullptr) {
            return;
        }
        previous_->next_ = next_;
        next_->previous_ = previous_;
        previous_ = next_ = nullptr;
    }

 private:
    template <class, class>
    friend class IntrusiveList;
    ListLink* previous_ = nullptr;
    ListLink* next_ = nullptr;
};

// T derives from ListLink<Tag>. The list does not own its elements.
template <class T, class Tag>
class IntrusiveList {
 public:
    IntrusiveList() noexcept { head_.next_ = head_.previous_ = &head_; }
    ~IntrusiveList() {
        while (!empty()) {
            head_.next_->unlink();
        }
        head_.next_ = head_.previous_ = nullptr;
    }
    IntrusiveList(const IntrusiveList&) = delete;
    IntrusiveList& operator=(const IntrusiveList&) = delete;

    bool empty() const noexcept { return head_.next_ == &head_; }
    T& front() noexcept { return *static_cast<T*>(head_.next_); }
    T* first() noexcept { return empty() ? nullptr : &front(); }
    T* after(T& element) noexcept {
        ListLink<Tag>* next = static_cast<ListLink<Tag>&>(element).next_;
        return next == &head_ ? nullptr : static_cast<T*>(next);
    }

    void push_back(T& element) noexcept {
        ListLink<Tag>& link = element;
        link.unlink();
        link.previous_ = head_.previous_;
        link.next_ = &head_;
        head_.previous_->next_ = &link;
        head_.previous_ = &link;
    }

 private:
    ListLink<Tag> head_;
};

}  // namespace mana_ai::net::detail
